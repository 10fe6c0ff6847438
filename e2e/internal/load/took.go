package load

import (
	"math"
	"sync/atomic"
	"time"
)

// Times counts how long answers took, in steps of an eighth.
type Times struct {
	steps [256]atomic.Int64
}

// perDoubling is how many steps double a time.
const perDoubling = 6

// add counts an answer.
func (c *Times) add(took time.Duration) {
	step := int(perDoubling * math.Log2(max(1, float64(took.Microseconds()))))
	c.steps[min(step, len(c.steps)-1)].Add(1)
}

// Within returns a time within which this part of all answers came, and at most a step more than that; 0 if there is none.
func (c *Times) Within(part float64) time.Duration {
	total := int64(0)
	for i := range c.steps {
		total += c.steps[i].Load()
	}
	rest := int64(math.Ceil(part * float64(total)))
	for i := range c.steps {
		if rest -= c.steps[i].Load(); rest <= 0 && total > 0 {
			return time.Duration(math.Exp2(float64(i+1)/perDoubling) * float64(time.Microsecond))
		}
	}
	return 0
}

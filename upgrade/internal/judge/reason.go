package judge

import (
	"fmt"
	"strconv"
	"time"
)

// Summary returns the counts of both for people.
func Summary(successor, predecessor Outcomes) string {
	text := func(o Outcomes) string {
		s := sampleOf(o.Failed, o.Ended)
		return fmt.Sprintf("%s failed (%.1f %%)", Thousands(uint64(s.x)), 100*s.ratio())
	}
	noun := "requests"
	if successor.Ended == 1 {
		noun = "request"
	}
	return fmt.Sprintf("%s %s, %s; here %s, %s", Thousands(successor.Ended), noun, text(successor),
		Thousands(predecessor.Ended), text(predecessor))
}

func (c comparison) reason() string {
	s, p := c.successor, c.predecessor
	return fmt.Sprintf("%s of %s requests %s (%.1f %%); at the predecessor %s of %s (%.1f %%)",
		Thousands(uint64(s.x)), Thousands(uint64(s.n)), c.what, 100*s.ratio(), Thousands(uint64(p.x)), Thousands(uint64(p.n)), 100*p.ratio())
}

// slower returns a sentence if the successor is much slower: its median is more than three times
// the predecessor's and 100 ms higher, over 50 requests of each.
func slower(successor, predecessor Latencies) string {
	s, n := successor.Median()
	p, m := predecessor.Median()
	if n < 50 || m < 50 || s <= 3*p || s-p < 100*time.Millisecond {
		return ""
	}
	return fmt.Sprintf("the median of %s requests was %v; at the predecessor of %s %v", Thousands(n),
		s.Round(time.Millisecond), Thousands(m), p.Round(time.Millisecond))
}

// Thousands returns a count with a comma before each three digits.
func Thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

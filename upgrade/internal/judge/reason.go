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
		return fmt.Sprintf("%s failed (%.1f %%)", thousands(s.x), 100*s.ratio())
	}
	noun := "requests"
	if successor.Ended == 1 {
		noun = "request"
	}
	return fmt.Sprintf("%s %s, %s; here %s, %s", thousands(float64(successor.Ended)), noun, text(successor),
		thousands(float64(predecessor.Ended)), text(predecessor))
}

func (c comparison) reason() string {
	s, p := c.successor, c.predecessor
	return fmt.Sprintf("%s of %s requests %s (%.1f %%); at the predecessor %s of %s (%.1f %%)",
		thousands(s.x), thousands(s.n), c.what, 100*s.ratio(), thousands(p.x), thousands(p.n), 100*p.ratio())
}

// slower returns a sentence if the successor is much slower: its median is more than three times
// the predecessor's and 100 ms higher, over 50 requests of each.
func slower(successor, predecessor Latencies) string {
	s, n := successor.Median()
	p, m := predecessor.Median()
	if n < 50 || m < 50 || s <= 3*p || s-p < 100*time.Millisecond {
		return ""
	}
	return fmt.Sprintf("the median of %s requests was %v; at the predecessor of %s %v", thousands(float64(n)),
		s.Round(time.Millisecond), thousands(float64(m)), p.Round(time.Millisecond))
}

// thousands returns a count with commas.
func thousands(n float64) string {
	s := strconv.FormatFloat(n, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

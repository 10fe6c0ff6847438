package excess

import "time"

// What a client may ask for beyond what it takes.
const (
	// A client may cancel requests, as a browser does when its user leaves a page. It
	// may do so this much more often than requests complete. Node.js has the same
	// values.
	resetsAtOnce, resetsPerSecond = 1000, 33
	// Frames have a header, and those that carry nothing of a request or a body are
	// needed now and then. These are bytes.
	overheadAtOnce, overheadPerSecond = 512 << 10, 16 << 10
	// carriedPays is how many bytes of overhead go with one that is carried. nginx
	// has the same ratio.
	carriedPays = 8
)

// budget bounds something that costs the server more than the client. It is a bucket of
// tokens that time fills, and useful traffic too.
type budget struct {
	most, perSecond, left float64

	since time.Time // when it was last filled
}

func newBudget(most, perSecond float64) budget {
	return budget{most: most, perSecond: perSecond, left: most, since: time.Now()}
}

// spend takes n tokens, or gives them back where n is negative. It returns false if
// there are not so many.
func (b *budget) spend(n int) bool {
	if b.left < float64(n) { // else the clock need not be asked
		b.fill(time.Now())
	}
	b.left = min(b.left-float64(n), b.most)
	return b.left >= 0
}

// fill adds what has come with time.
func (b *budget) fill(now time.Time) {
	b.left = min(b.left+now.Sub(b.since).Seconds()*b.perSecond, b.most)
	b.since = now
}

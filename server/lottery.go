package server

// lottery chooses a share of what comes, one after another: of n about share*n, and the first
// one in any case, so that little traffic is enough for a trial. It divides what comes into
// stretches of which one is chosen each, anywhere in it, so that the share holds for every
// few, and clients that come in a pattern are chosen like others.
type lottery struct {
	share  float64 // more than 0, less than 1
	n      int     // how many have come
	chosen int
	next   int // the one that is chosen next, from 0
}

// draw reports whether the next one is chosen. random is from 0 to 1, and not 1.
func (l *lottery) draw(random float64) bool {
	l.n++
	if l.n <= l.next {
		return false
	}
	l.chosen++
	l.next = int((float64(l.chosen) + random) / l.share)
	return true
}

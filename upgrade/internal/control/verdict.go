package control

import "net"

// Verdict is a client that ends a trial or watch, and waits for one answer.
type Verdict struct {
	Good   bool
	Reason string // of one that is bad; may be empty

	answer chan Reply // cap 1
}

func newVerdict(r Request) *Verdict {
	return &Verdict{Good: r.Command == Promote, Reason: printable(r.Reason), answer: make(chan Reply, 1)}
}

// Accept answers that the trial ends so. It never blocks.
func (v *Verdict) Accept() { v.answer <- Reply{Final: true} }

// Refuse answers why it does not. It never blocks.
func (v *Verdict) Refuse(reason string) { v.answer <- Reply{Final: true, Error: reason} }

// awaitAnswer passes on a verdict and writes the answer.
func (s *Server) awaitAnswer(nc net.Conn, v *Verdict) {
	select {
	case s.verdicts <- v:
		write(nc, <-v.answer)
	case <-s.closing:
		write(nc, Reply{Final: true, Error: "the server is stopping"})
	}
}

package judge

import "time"

type Outcomes struct {
	Started    uint64 `json:"started"`
	Answered   uint64 `json:"answered"`
	Ended      uint64 `json:"ended"`
	Failed     uint64 `json:"failed"`
	Denied     uint64 `json:"denied"`
	Redirected uint64 `json:"redirected"`
	Empty      uint64 `json:"empty"`
}

func (o Outcomes) Minus(p Outcomes) Outcomes {
	return Outcomes{Ended: o.Ended - p.Ended, Failed: o.Failed - p.Failed}
}
func (o Outcomes) Plus(p Outcomes) Outcomes { return o }

type Options struct{ Latency bool }
type Judge struct{}

func New(Options) *Judge { return new(Judge) }

type Decision int

const (
	Undecided Decision = iota
	Good
	Bad
)

type Verdict struct {
	Decision
	Reason string
	Slow   bool
}

func (*Judge) Observe(at time.Duration, s, p Outcomes) Verdict {
	if s.Failed > 0 {
		return Verdict{Decision: Bad, Reason: "x"}
	}
	return Verdict{}
}
func (*Judge) Slower() string      { return "" }
func Summary(s, p Outcomes) string { return "" }

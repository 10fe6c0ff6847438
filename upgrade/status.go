package upgrade

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"example.com/baton/upgrade/internal/link"
)

// Result is how an upgrade ended.
type Result string

const (
	// Succeeded: the successor serves.
	Succeeded Result = "succeeded"
	// Failed: the successor failed, and the predecessor serves on.
	Failed Result = "failed"
	// Refused: the upgrade was not tried, because the service stops.
	Refused Result = "refused"
	// Unknown: the client got no answer.
	Unknown Result = "unknown"
)

// Status is what a generation reports of itself, its neighbors and the last upgrades.
type Status struct {
	Generation  int      `json:"generation"` // of the generation that answers
	PID         int      `json:"pid"`
	Version     string   `json:"version"`
	State       string   `json:"state"`
	Listen      []string `json:"listen"`           // the addresses that it accepts at, as bound
	Notice      string   `json:"notice,omitempty"` // that of Options
	Generations []Member `json:"generations"`      // those alive, oldest first
	// Upgrades are the last ten, oldest first.
	Upgrades []Upgrade `json:"upgrades"`
	// Trial is the one that runs, or else the last one with its verdict. It is nil if there
	// was none, and where it is not known.
	Trial *TrialStatus `json:"trial,omitempty"`
	// Service is what the service of the generation that answers shows of itself, if it is a
	// [Describer].
	Service json.RawMessage `json:"service,omitempty"`
}

// Member is one generation that is alive.
type Member struct {
	Generation int     `json:"generation"`
	PID        int     `json:"pid"`
	Version    string  `json:"version"`
	State      string  `json:"state"`
	Age        float64 `json:"age_seconds"`
	Load
}

// Upgrade is one upgrade of the past.
type Upgrade struct {
	Time    time.Time `json:"time"`
	Trigger string    `json:"trigger"` // "signal" or "control"
	From    int       `json:"from"`
	To      int       `json:"to"`
	Result  Result    `json:"result"`
	Reason  string    `json:"reason"` // empty if it succeeded
	Seconds float64   `json:"seconds"`
	// The versions of the two; empty where it was never known.
	FromVersion string `json:"from_version"`
	ToVersion   string `json:"to_version"`
	// Drained is the drain of the predecessor. It is nil until that is over, where the upgrade
	// failed, and where it is not known.
	Drained *Drained `json:"drained,omitempty"`
}

// Outcome is the result of an upgrade for whoever has requested it.
type Outcome struct {
	Result       Result  `json:"result"`
	Generation   int     `json:"generation,omitempty"` // the one that serves now
	PID          int     `json:"pid,omitempty"`
	Version      string  `json:"version,omitempty"`
	ReadySeconds float64 `json:"ready_seconds,omitempty"`
	// Predecessor is set if the upgrade succeeded.
	Predecessor *Predecessor `json:"predecessor,omitempty"`
	Reason      string       `json:"reason,omitempty"`
	// Stderr holds the last lines that a failed successor printed.
	Stderr []string `json:"stderr,omitempty"`
}

// Predecessor is the end of a generation that was replaced, as far as it is known.
type Predecessor struct {
	Generation int `json:"generation"`
	PID        int `json:"pid"`
	// IsDrained is false while it still drains; Drained is zero then.
	IsDrained bool `json:"drained"`
	Drained
	Load *Load `json:"load,omitempty"` // what it has in hand, while it drains
}

// Status returns what is known now of this generation, of its predecessors and
// its successor, and of the last upgrades.
func (g *Generation) Status() Status {
	load, description := g.load(), g.describe()
	g.mu.Lock()
	defer g.mu.Unlock()
	own := member{Hello: g.introduction(), state: g.state, load: load}
	s := Status{
		Generation: g.number, PID: own.PID, Version: own.Version, State: own.state.String(),
		Listen:   append([]string{}, g.addresses...),
		Upgrades: append([]Upgrade{}, g.upgrades...), Notice: g.opts.Notice,
		Service: description,
	}
	s.Trial = g.lastTrial()
	for _, m := range slices.Concat(g.predecessors, []*member{&own, g.successor}) {
		if m != nil {
			s.Generations = append(s.Generations, m.report())
		}
	}
	return s
}

// String is the outcome in one line.
func (o Outcome) String() string {
	if o.Result != Succeeded {
		return fmt.Sprintf("upgrade %s: %s", o.Result, o.Reason)
	}
	line := fmt.Sprintf("generation %d (pid %d, version %s) serves after %s",
		o.Generation, o.PID, o.Version, span(o.ReadySeconds))
	p := o.Predecessor
	switch {
	case p == nil:
		return line
	case !p.IsDrained && p.Load != nil:
		return line + fmt.Sprintf("; generation %d still drains: %s, %s", p.Generation,
			count(p.Load.Requests, "request"), count(p.Load.Connections.all(), "connection"))
	case !p.IsDrained:
		return line + fmt.Sprintf("; generation %d still drains", p.Generation)
	}
	c, protocols := p.Drained.Connections, p.Protocols()
	if protocols != "" {
		protocols = " (" + protocols + ")"
	}
	line += fmt.Sprintf("; generation %d drained in %s: %s finished, %s migrated%s, %d sent Connection: close, %d closed idle, %d closed forcibly",
		p.Generation, span(p.Seconds), count(p.Requests, "request"), count(p.Migrated, "connection"), protocols, c.ConnectionClose, c.IdleGrace, c.DrainTimeout)
	return line
}

// DropsAll reports whether a successor that listens at these addresses alone would drop
// every listener that the service has: [Generation.CheckContinuity] refuses that. An
// address that cannot be known before, such as port 0, counts as one that stays.
func (s Status) DropsAll(addrs ...string) bool {
	for _, addr := range addrs {
		asked, err := resolveAddress(addr)
		if err != nil || asked.unix == "" && asked.tcp.Port() == 0 {
			return false
		}
		if slices.ContainsFunc(s.Listen, func(bound string) bool { return claim{Claim: link.Claim{Bound: bound}}.matches(asked) }) {
			return false
		}
	}
	return len(s.Listen) > 0
}

// Load returns what all generations that are alive have in hand together.
func (s Status) Load() Load {
	var sum Load
	for _, m := range s.Generations {
		sum.Requests += m.Requests
		sum.Connections.New += m.Connections.New
		sum.Connections.Active += m.Connections.Active
		sum.Connections.Idle += m.Connections.Idle
		sum.Connections.Hijacked += m.Connections.Hijacked
	}
	return sum
}

// String is the status in one line.
func (s Status) String() string {
	var parts []string
	for _, m := range s.Generations {
		c := m.Connections
		hand := fmt.Sprintf("%s in flight, %s", count(m.Requests, "request"), count(c.all(), "connection"))
		switch {
		case m.Generation == s.Generation:
			parts = append([]string{fmt.Sprintf("generation %d, version %s, is %s: %s", m.Generation, m.Version, m.State, hand)}, parts...)
		case m.State == Draining.String():
			parts = append(parts, fmt.Sprintf("generation %d still drains: %s", m.Generation, hand))
		default:
			parts = append(parts, fmt.Sprintf("generation %d, version %s, is %s", m.Generation, m.Version, m.State))
		}
	}
	if t := s.Trial; t != nil && t.Running() {
		parts = append(parts, t.String())
	}
	if n := len(s.Upgrades); n > 0 && s.Upgrades[n-1].Result == Failed {
		last := s.Upgrades[n-1]
		parts = append(parts, fmt.Sprintf("the upgrade of %s failed: %s", last.Time.Local().Format(time.DateTime), last.Reason))
	}
	if s.Notice != "" {
		parts = append(parts, s.Notice)
	}
	return strings.Join(parts, "; ")
}

// WriteTo writes the status as tables.
func (s Status) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GENERATION\tPID\tVERSION\tSTATE\tAGE\tREQUESTS\tNEW\tACTIVE\tIDLE\tHIJACKED")
	for _, m := range s.Generations {
		c := m.Connections
		fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\n",
			m.Generation, m.PID, m.Version, m.State, span(m.Age), m.Requests, c.New, c.Active, c.Idle, c.Hijacked)
	}
	t.Flush()
	if s.Trial != nil {
		fmt.Fprintln(&b)
		s.Trial.write(&b, time.Now())
	}
	if s.Notice != "" {
		fmt.Fprintf(&b, "\n%s\n", s.Notice)
	}
	if len(s.Upgrades) > 0 {
		fmt.Fprintln(t)
		fmt.Fprintln(t, "UPGRADE\tVERSIONS\tAT\tBY\tRESULT\tAFTER\tMIGRATED\tCLOSED\tREASON")
		for _, u := range s.Upgrades {
			var migrated, closed string
			if u.Drained != nil {
				migrated, closed = cmp.Or(u.Drained.Protocols(), fmt.Sprint(u.Drained.Migrated)), cmp.Or(u.Drained.Connections.String(), "0")
			}
			fmt.Fprintf(t, "%d to %d\t%s to %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", u.From, u.To, cmp.Or(u.FromVersion, "?"), cmp.Or(u.ToVersion, "?"),
				u.Time.Local().Format(time.DateTime), u.Trigger, u.Result, span(u.Seconds), migrated, closed, u.Reason)
		}
		t.Flush()
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// span writes a duration as a person reads it: 41 ms, 1.03 s, 2m5s.
func span(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", seconds)
	default:
		return d.Round(time.Second).String()
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

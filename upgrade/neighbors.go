package upgrade

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
	"example.com/baton/upgrade/internal/process"
)

// member is a neighbor in the line of generations.
type member struct {
	link.Hello
	link     *link.Link
	process  process.Process
	id       lifecycle.ID // of a predecessor
	state    State
	load     Load
	outcomes Outcomes  // zero if it does not report them
	counts   Counts    // as it has reported them: its own and those of all beyond it
	reported bool      // that it is drained
	due      time.Time // of a predecessor that came over a link: when it should be gone; zero: unknown
}

func (m *member) report() Member {
	return Member{Generation: m.Generation, PID: m.PID, Version: m.Version, State: m.state.String(),
		Age: time.Since(m.Started).Seconds(), Load: m.load}
}

// living returns the predecessors that live, oldest first.
func (g *Generation) living() []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.predecessors)
}

// add notes a predecessor. The caller holds the lock of the generation.
func (n *neighbors) add(p *member) {
	if p.id == 0 {
		n.lastID++
		p.id = n.lastID
	}
	n.predecessors = append(n.predecessors, p)
	slices.SortFunc(n.predecessors, func(a, b *member) int { return cmp.Compare(a.Generation, b.Generation) })
}

// remove forgets a predecessor. The caller holds the lock of the generation.
func (n *neighbors) remove(p *member) {
	n.predecessors = slices.DeleteFunc(n.predecessors, func(m *member) bool { return m == p })
}

// exchange returns what handles messages of a link beside Run, whatever that is busy
// with: reports, connections that migrate, and links that are passed on. It returns
// whether the message is not for Run as well.
func (g *Generation) exchange(l *link.Link, fromPredecessor bool) func(*link.Message) bool {
	return func(m *link.Message) bool {
		switch {
		case m.Hello != nil && m.Type == link.TypeHello && !fromPredecessor:
			g.meetSuccessor(l, m)
		case m.Type == link.TypeQuestion:
			g.answer(l, m.Question)
		case m.Type == link.TypeOffer || m.Type == link.TypeTransfer:
			g.takeOffer(l, m)
		case m.Type == link.TypePredecessor && fromPredecessor:
			g.inheritPredecessor(l, m)
		case m.Report != nil:
			if changed := g.takeReport(l, m.Report); changed && m.Type == link.TypeReport {
				return false
			}
		}
		switch m.Type {
		case link.TypeQuestion, link.TypeReport, link.TypeOffer, link.TypeTransfer, link.TypeTaken:
			m.Close()
			return true
		}
		return false
	}
}

// report sends a message with a report over a link, as the response to a question if
// that has a number. A report that is lost is followed by another.
func (g *Generation) report(l *link.Link, m link.Message, answers uint64) error {
	now := g.own()
	return l.SendOrdered(func() link.Message {
		m.Report = g.currentReport(l, now)
		m.Report.Answers = answers
		return m
	})
}

// serviceAs returns the service as one that is more, if it is that. It may only be called when no
// lock is held.
func serviceAs[T Service](g *Generation) (service T, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	service, ok = g.service.(T)
	return service, ok
}

// load returns what the service has in hand.
func (g *Generation) load() (l Load) {
	if s, ok := serviceAs[Service](g); ok {
		l = s.Load()
	}
	return l
}

// describe returns what the service shows of itself.
func (g *Generation) describe() (description json.RawMessage) {
	if s, ok := serviceAs[Describer](g); ok {
		description = s.Describe()
	}
	return description
}

// outcomes returns what has become of the requests of this generation.
func (g *Generation) outcomes() (o Outcomes) {
	if s, ok := serviceAs[Judged](g); ok {
		o = s.Outcomes()
	}
	return o
}

// snapshot is what the service of this generation reports of itself.
type snapshot struct {
	load     Load
	counts   Counts // once it serves
	outcomes Outcomes
}

// own returns that. It calls the service, too.
func (g *Generation) own() snapshot {
	g.mu.Lock()
	c, ok := g.service.(Counter)
	ok = ok && g.state != Starting
	g.mu.Unlock()
	now := snapshot{load: g.load(), outcomes: g.outcomes()}
	if ok {
		now.counts = c.Counts()
	}
	return now
}

// currentReport returns a report for the peer of a link, without the peer's own counts
// and those of generations that it reports itself. As others may have been reported since, none
// of the counts goes down.
func (g *Generation) currentReport(to *link.Link, now snapshot) *link.Report {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counted = g.counted.atLeast(now.counts)
	r := &link.Report{State: g.state.String(), Load: encode(now.load), Counts: g.beyond(to).plus(g.counted), Outcomes: encode(now.outcomes)}
	if g.trial != nil && to == g.successorLink { // while the two are tried, operators may ask either
		r.Trial = encode(g.trial)
	}
	return r
}

// meetSuccessor notes who is at the other end of the link, if that is still
// the one of the upgrade under way. It may be another one later: the generation
// that serves then.
func (g *Generation) meetSuccessor(l *link.Link, m *link.Message) {
	g.mu.Lock()
	another := g.successor != nil
	if g.successorLink != l || another && g.successor.state < Serving {
		g.mu.Unlock()
		return
	}
	if another {
		g.successor.process.Close()
	}
	g.successor = &member{Hello: *m.Hello, link: l, process: process.Open(m.Sender()), state: Starting}
	g.successor.Generation = max(m.Hello.Generation, g.number+1)
	if another {
		g.successor.state = Serving
	}
	g.mu.Unlock()
	if m.Hello.Protocol < 3 {
		l.Ignores(link.TypeTransfer) // the connections are still here: it does not even close them
	}
	if another {
		g.report(l, link.Message{Type: link.TypeReport}, 0)
	}
}

// takeReport takes note of a neighbor's report. It returns whether the state of the successor
// has changed.
func (g *Generation) takeReport(l *link.Link, r *link.Report) (changed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.successor
	if s == nil || l != g.successorLink {
		g.note(l, r)
		return false
	}
	before := s.state
	g.note(l, r)
	return s.state != before
}

// note is takeReport for callers that hold g.mu.
func (g *Generation) note(l *link.Link, r *link.Report) {
	var m *member
	if l == g.successorLink {
		// A report that was sent before a predecessor was passed on lacks its counts.
		m, g.future = g.successor, g.future.atLeast(r.Counts)
		if m != nil {
			m.counts = r.Counts
		}
	}
	for _, p := range g.predecessors {
		if p.link == l {
			m, p.counts = p, r.Counts
		}
	}
	if m == nil {
		return
	}
	if err := decode(r.Load, &m.load); err != nil {
		m.load = Load{}
	}
	if err := decode(r.Outcomes, &m.outcomes); err != nil {
		m.outcomes = Outcomes{}
	}
	if r.Trial != nil && l == g.link && (g.trial == nil || g.trial.From != g.number) { // else this generation has had one since
		t := new(TrialStatus)
		if err := decode(r.Trial, t); err != nil {
			t = nil
		}
		g.trial = t
	}
	for state, name := range stateNames {
		if name == r.State {
			m.state = State(state)
		}
	}
	if l == g.link && m.state >= Draining {
		select {
		case <-g.predecessorDrains:
		default:
			close(g.predecessorDrains)
		}
	}
}

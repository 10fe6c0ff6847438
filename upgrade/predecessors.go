package upgrade

import (
	"cmp"
	"slices"
	"time"

	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
	"example.com/baton/upgrade/internal/process"
	"golang.org/x/sys/unix"
)

// inheritPredecessor takes a link over from the predecessor that had it.
func (g *Generation) inheritPredecessor(from *link.Link, m *link.Message) {
	if m.Hello == nil || m.Report == nil {
		return
	}
	err := error(unix.EMFILE) // what comes without its descriptor
	var l *link.Link
	if f, _ := m.TakeFile(); f != nil {
		l, err = link.Open(f)
	}
	if err != nil {
		g.log.Warn("drain of the predecessor cannot be observed", "predecessor", m.Hello.Generation, "error", err)
		g.mu.Lock()
		g.bury(m.Hello.Counts)
		g.note(from, m.Report)
		g.mu.Unlock()
		return
	}
	p := &member{Hello: *m.Hello, link: l, process: process.Open(m.Hello.PID), state: Draining, counts: m.Hello.Counts, due: m.Due}
	g.mu.Lock()
	g.add(p)
	g.note(from, m.Report) // without what p has counted, from now on
	g.mu.Unlock()
	if err := g.greet(l); err == nil {
		g.report(l, link.Message{Type: link.TypeReport}, 0)
	}
	l.Follow(g.events, g.done, g.exchange(l, true))
}

// member returns what the machine knows of a predecessor.
func (m *member) member() lifecycle.Member {
	return lifecycle.Member{ID: m.id, Generation: m.Generation, PID: m.PID, Protocol: min(m.Protocol, link.Version()), Drain: m.Drain, Due: m.due}
}

// enqueueMembers notifies the machine of predecessors that have come over a link since, before
// it hears of anything else that may concern them.
func (r *run) enqueueMembers() {
	members := r.living()
	slices.SortFunc(members, func(a, b *member) int { return cmp.Compare(a.id, b.id) })
	var added []lifecycle.Event
	for _, p := range members {
		if p.id > r.known {
			r.known = p.id
			added = append(added, lifecycle.Event{Kind: lifecycle.PredecessorAdded, Member: p.member()})
		}
	}
	r.queue = append(added, r.queue...)
}

// handlePredecessor handles what came over the link of a predecessor.
func (r *run) handlePredecessor(p *member, e *link.Event) {
	switch m := &e.Message; {
	case e.Kind == link.Ended:
		r.enqueue(lifecycle.Event{Kind: lifecycle.PredecessorUnlinked, ID: p.id})
	case e.Kind == link.Lost:
		r.enqueue(lifecycle.Event{Kind: lifecycle.PredecessorLost, ID: p.id})
	case e.Kind == link.Exited:
		r.enqueue(lifecycle.Event{Kind: lifecycle.PredecessorExited, ID: p.id})
	case m.Type == link.TypeDrained:
		r.predecessorDrained(p, m)
	case m.Type == link.TypeUpgrade:
		if conn := m.TakeConn(); conn != nil {
			r.control.Adopt(conn, m.Overrides)
		} else {
			r.enqueue(lifecycle.Event{Kind: lifecycle.SignalTrigger, Origin: m.Origin})
		}
	case m.Type == link.TypeTakeOver:
		r.enqueue(lifecycle.Event{Kind: lifecycle.TakeOver})
	case m.Type == link.TypeCommit:
		r.enqueue(lifecycle.Event{Kind: lifecycle.CommitMessage})
	case m.Type == link.TypeTakeBack:
		r.enqueue(lifecycle.Event{Kind: lifecycle.TakeBack, Text: m.Reason})
	case m.Type == link.TypeStop:
		r.enqueue(lifecycle.Event{Kind: lifecycle.StopMessage, By: "the predecessor"})
	}
}

// predecessorDrained takes the last report of a predecessor.
func (r *run) predecessorDrained(p *member, m *link.Message) {
	var d Drained
	if m.Drained == nil || decode(m.Drained, &d) != nil {
		return
	}
	c := d.Connections
	r.log.Info("predecessor drained", "predecessor", p.Generation, "seconds", d.Seconds, "requests_finished", d.Requests,
		"connections_migrated", d.Migrated, "migrated", d.protocols(), "closed_by_client", c.Client,
		"sent_connection_close", c.ConnectionClose, "closed_idle", c.IdleGrace, "closed_forcibly", c.DrainTimeout)
	r.recordDrain(p.Generation, d)
	r.mu.Lock()
	p.reported, p.load = true, Load{}
	r.mu.Unlock()
	for _, o := range r.observers {
		o.PredecessorDrained(d)
	}
	r.enqueue(lifecycle.Event{Kind: lifecycle.PredecessorDrained, ID: p.id})
}

// releaseLink stops reading from the link to a predecessor, so that the successor can.
func (r *run) releaseLink(p *member, _ lifecycle.Action) {
	for _, m := range p.link.Release() {
		e := link.Event{From: p.link, Message: m}
		r.handlePredecessor(p, &e)
		e.Close()
	}
	r.enqueue(lifecycle.Event{Kind: lifecycle.LinkReleased, ID: p.id})
}

// passLink gives the link to a predecessor to the successor.
func (r *run) passLink(p *member, a lifecycle.Action) {
	if err := r.pass(p, a.At); err != nil {
		r.log.Warn("predecessor cannot be passed on to the successor", "predecessor", p.Generation, "error", err)
		r.enqueue(lifecycle.Event{Kind: lifecycle.LinkKept, ID: p.id})
		return
	}
	p.link.Close()
	p.process.Close()
	r.enqueue(lifecycle.Event{Kind: lifecycle.LinkPassed, ID: p.id})
}

// pass passes one link on, together with the responsibility for what is counted there.
func (r *run) pass(p *member, due time.Time) error {
	l := r.attempt.link
	introduction := link.Hello{Protocol: p.Protocol, PID: p.PID, Version: p.Version, Started: p.Started, Generation: p.Generation, Drain: p.Drain}
	now := r.own()
	var before Counts
	err := l.SendOrdered(func() link.Message {
		r.mu.Lock()
		r.remove(p)
		introduction.Counts = p.counts
		before = r.future
		r.future = r.future.plus(p.counts)
		r.mu.Unlock()
		return link.Message{Type: link.TypePredecessor, Hello: &introduction, Report: r.currentReport(l, now), Due: due}
	}, p.link)
	if err != nil {
		r.mu.Lock()
		r.add(p)
		r.future = before
		if r.successor != nil { // which may have reported something since
			r.future = before.atLeast(r.successor.counts)
		}
		r.mu.Unlock()
	}
	return err
}

// followLink reads from a link again that was released.
func (r *run) followLink(p *member, _ lifecycle.Action) {
	r.mu.Lock()
	p.link = p.link.Resume()
	r.mu.Unlock()
	r.report(p.link, link.Message{Type: link.TypeReport}, 0)
	p.link.Follow(r.events, r.done, r.exchange(p.link, true))
}

func (r *run) forget(p *member, _ lifecycle.Action) {
	p.process.Close()
	r.mu.Lock()
	r.remove(p)
	r.bury(p.counts)
	r.mu.Unlock()
}

func (r *run) kill(p *member, _ lifecycle.Action) {
	if err := p.process.Kill(); err != nil {
		r.log.Error("predecessor cannot be killed", "error", err)
	}
}

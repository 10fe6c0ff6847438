package upgrade

import (
	"time"

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
		g.log.Warn("predecessor cannot be followed while it drains", "predecessor", m.Hello.Generation, "error", err)
		g.mu.Lock()
		g.past = g.past.plus(m.Hello.Counts)
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

// passPredecessors gives the links to the predecessors that still drain to the
// successor. One that cannot be given, or has nothing more to do than to exit, is
// followed on, which keeps this generation alive as long.
func (r *run) passPredecessors() {
	a := r.attempt
	for _, p := range r.living() {
		if p.lost {
			continue
		}
		if a.protocol < 2 || p.Protocol < 2 || a.gone {
			r.report(p.link, link.Message{Type: link.TypeReport}, 0) // so that this one's end surprises nobody
			continue
		}
		for _, m := range p.link.Release() {
			r.handlePredecessor(p, &m)
			m.Close()
		}
		if p.reported { // it is about to exit
			r.followOn(p)
		} else if err := r.pass(p); err != nil {
			r.log.Warn("predecessor cannot be passed on to the successor", "predecessor", p.Generation, "error", err)
			r.followOn(p)
		} else {
			p.link.Close()
			p.process.Close()
		}
	}
}

// followOn reads from a link again that was released.
func (r *run) followOn(p *member) {
	r.mu.Lock()
	p.link = p.link.Resume()
	r.mu.Unlock()
	r.report(p.link, link.Message{Type: link.TypeReport}, 0)
	p.link.Follow(r.events, r.done, r.exchange(p.link, true))
}

// pass passes one link on, together with the responsibility for what is counted there.
func (r *run) pass(p *member) error {
	l := r.attempt.link
	introduction := link.Hello{Protocol: p.Protocol, PID: p.PID, Version: p.Version, Started: p.Started, Generation: p.Generation, Drain: p.Drain}
	load, counts := r.own()
	var before Counts
	err := l.SendOrdered(func() link.Message {
		r.mu.Lock()
		r.remove(p)
		introduction.Counts = p.counts
		before = r.future
		r.future = r.future.plus(p.counts)
		r.mu.Unlock()
		return link.Message{Type: link.TypePredecessor, Hello: &introduction, Report: r.currentReport(l, load, counts), Due: p.due}
	}, p.link)
	if err != nil {
		r.mu.Lock()
		r.add(p)
		r.future = before
		r.mu.Unlock()
	}
	return err
}

// predecessorIsLost goes on with a predecessor that lives without a link. It
// drains, or does not know that it should: it may not stay beyond the time for that.
func (r *run) predecessorIsLost(p *member) {
	p.lost = true
	r.log.Warn("link to the predecessor is lost; waits for its end", "predecessor", p.Generation, "predecessor_pid", p.PID)
	if p.due.IsZero() && p.Drain > 0 {
		p.due = time.Now().Add(p.Drain + overstay)
	}
	r.watchOverdue()
}

func (r *run) predecessorIsGone(p *member) {
	p.process.Close()
	r.mu.Lock()
	r.remove(p)
	r.past = r.past.plus(p.counts)
	r.mu.Unlock()
	if p.reported {
		r.log.Info("predecessor is gone", "predecessor", p.Generation)
	} else {
		r.log.Warn("predecessor ended without a report; what it had in hand is lost", "predecessor", p.Generation)
	}
	r.startPending()
}

// overstay is how much longer than its drain may take a predecessor may live.
const overstay = 5 * time.Second

// watchOverdue sets the time at which the next predecessor should be gone.
func (r *run) watchOverdue() {
	var next time.Time
	for _, p := range r.living() {
		if !p.due.IsZero() && (next.IsZero() || p.due.Before(next)) {
			next = p.due
		}
	}
	r.overdue = nil
	if !next.IsZero() {
		r.overdue = time.After(time.Until(next))
	}
}

// killOverdue ends predecessors that hang or were stopped: while they live, others
// may have to wait.
func (r *run) killOverdue() {
	for _, p := range r.living() {
		if p.due.IsZero() || time.Now().Before(p.due) {
			continue
		}
		p.due = time.Time{}
		r.log.Warn("predecessor is still there although its drain is long over; kills it", "predecessor", p.Generation, "predecessor_pid", p.PID)
		if err := p.process.Kill(); err != nil {
			r.log.Error("predecessor cannot be killed", "error", err)
		}
	}
	r.watchOverdue()
}

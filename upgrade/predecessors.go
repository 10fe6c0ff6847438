package upgrade

// This file holds the predecessors that still drain. The generation that serves
// has a link to each of them: at a handoff it gives those to its successor,
// together with the sockets.

import (
	"cmp"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// living returns the predecessors that live, oldest first.
func (g *Generation) living() []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.predecessors)
}

// add notes a predecessor.
func (g *Generation) add(p *member) {
	g.predecessors = append(g.predecessors, p)
	slices.SortFunc(g.predecessors, func(a, b *member) int { return cmp.Compare(a.Generation, b.Generation) })
}

// remove forgets one. The caller of both holds g.mu.
func (g *Generation) remove(p *member) {
	g.predecessors = slices.DeleteFunc(g.predecessors, func(m *member) bool { return m == p })
}

// inheritPredecessor takes a link over from the predecessor that had it.
func (g *Generation) inheritPredecessor(from *link, m *message) {
	if m.Hello == nil || m.Report == nil {
		return
	}
	err := error(unix.EMFILE) // what comes without its descriptor
	var l *link
	if len(m.fds) > 0 {
		l, err = openLink(os.NewFile(uintptr(m.fds[0]), "link"))
		m.fds = m.fds[1:]
	}
	if err != nil {
		g.log.Warn("predecessor cannot be followed while it drains", "predecessor", m.Hello.Generation, "error", err)
		g.mu.Lock()
		g.past = g.past.plus(m.Hello.Counts)
		g.takeReport(from, m.Report)
		g.mu.Unlock()
		return
	}
	p := &member{hello: *m.Hello, link: l, process: openProcess(m.Hello.PID), state: Draining, counts: m.Hello.Counts, due: m.Due}
	g.mu.Lock()
	g.add(p)
	g.takeReport(from, m.Report) // without what p has counted, from now on
	g.mu.Unlock()
	if err := g.greet(l); err == nil {
		g.report(l, message{Type: msgReport}, 0)
	}
	l.follow(g.heard, g.done, g.exchange(l, true))
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
			r.report(p.link, message{Type: msgReport}, 0) // so that this one's end surprises nobody
			continue
		}
		for _, m := range p.link.release() {
			r.hear(p, &m)
			m.close()
		}
		if p.reported { // it is about to exit
			r.followOn(p)
		} else if err := r.pass(p); err != nil {
			r.log.Warn("predecessor cannot be passed on to the successor", "predecessor", p.Generation, "error", err)
			r.followOn(p)
		} else {
			p.link.close()
			p.process.close()
		}
	}
}

// followOn reads from a link again that was released.
func (r *run) followOn(p *member) {
	r.mu.Lock()
	p.link = linkOn(p.link.conn)
	r.mu.Unlock()
	p.link.conn.SetReadDeadline(time.Time{})
	r.report(p.link, message{Type: msgReport}, 0)
	p.link.follow(r.heard, r.done, r.exchange(p.link, true))
}

// pass moves one link, together with the responsibility for what is counted there.
func (r *run) pass(p *member) error {
	l := r.attempt.link
	introduction := hello{Protocol: p.Protocol, PID: p.PID, Version: p.Version, Started: p.Started, Generation: p.Generation, Drain: p.Drain}
	l.reporting.Lock() // or an older report could overtake this one
	defer l.reporting.Unlock()
	r.mu.Lock()
	r.remove(p)
	introduction.Counts = p.counts
	before := r.future
	r.future = r.future.plus(p.counts)
	r.mu.Unlock()
	err := l.send(message{Type: msgPredecessor, Hello: &introduction, Report: r.currentReport(l), Due: p.due}, p.link.conn)
	if err != nil {
		r.mu.Lock()
		r.add(p)
		r.future = before
		r.mu.Unlock()
	}
	return err
}

// linkEnds bounds the time between the end of a process's links and its own.
const linkEnds = 2 * time.Second

// watchEnd reports, as if it had come over the link that has ended, whether the process
// at the other end has exited, and if it has not, when it does.
func (r *run) watchEnd(from *link, process process) {
	report := func(h heard) {
		select {
		case r.heard <- h:
		case <-r.done:
		}
	}
	go func() {
		if !process.endsWithin(linkEnds) {
			report(heard{from: from, lost: true})
			if !process.awaitEnd(r.done) {
				return
			}
		}
		report(heard{from: from, exited: true})
	}()
}

// predecessorIsLost goes on with a predecessor that lives and cannot be heard. It
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
	p.process.close()
	r.mu.Lock()
	r.remove(p)
	r.past = r.past.plus(p.counts)
	r.mu.Unlock()
	if p.reported {
		r.log.Info("predecessor is gone", "predecessor", p.Generation)
	} else {
		r.log.Warn("predecessor ended without a report; what it had in hand is lost", "predecessor", p.Generation)
	}
	r.goOn()
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
		if err := p.process.kill(); err != nil {
			r.log.Error("predecessor cannot be killed", "error", err)
		}
	}
	r.watchOverdue()
}

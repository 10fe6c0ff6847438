package upgrade

// This file holds what the generations of a line tell each other of their work,
// so that any of them can answer for all.

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

// Counts are the counters of a service by name. Those of several generations
// are added up, name by name.
type Counts map[string]float64

// plus returns the sum of both, which it leaves as they are.
func (c Counts) plus(more Counts) Counts {
	sum := maps.Clone(c)
	if sum == nil {
		sum = make(Counts, len(more))
	}
	for name, n := range more {
		sum[name] += n
	}
	return sum
}

// report is what a generation tells a neighbour of itself.
type report struct {
	State string `json:"state"`
	Load  Load   `json:"load"`
	// Counts are this generation's and those of all beyond it, as seen from
	// the neighbour.
	Counts Counts `json:"counts,omitempty"`
	// Answers is the number of the question that it answers; 0: none.
	Answers uint64 `json:"answers,omitempty"`
}

// answerTimeout is how long the answer of a neighbour is waited for. One that is
// alive gives it within a millisecond, or a little later on a busy machine.
const answerTimeout = 750 * time.Millisecond

// questions are what was asked over a link and not answered yet.
type questions struct {
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan struct{}
}

func (q *questions) add() (number uint64, answered <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last++
	if q.waiting == nil {
		q.waiting = make(map[uint64]chan struct{})
	}
	done := make(chan struct{})
	q.waiting[q.last] = done
	return q.last, done
}

// remove takes a question away, and wakes who waits for its answer.
func (q *questions) remove(number uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if done, ok := q.waiting[number]; ok {
		delete(q.waiting, number)
		close(done)
	}
}

// ifWaiting calls f unless the question is answered, and before it can be.
func (q *questions) ifWaiting(number uint64, f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[number] != nil {
		f()
	}
}

// Others returns what all generations of the line but this one have counted, the
// living and the dead. It asks the neighbours, of which Status then knows more as
// well; where one does not answer soon, or has not done so before, what it said
// last counts.
func (g *Generation) Others(ctx context.Context) Counts {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	before, after := g.neighbours()
	var asked sync.WaitGroup
	for _, m := range []*member{before, after} {
		if m != nil {
			asked.Go(func() { m.link.question(ctx) })
		}
	}
	asked.Wait()

	g.mu.Lock()
	defer g.mu.Unlock()
	return g.past.plus(g.future)
}

// neighbours returns those that can be asked.
func (g *Generation) neighbours() (before, after *member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.before != nil && !g.before.reported {
		before = g.before
	}
	// A successor may serve before this generation hears of it.
	return before, g.after
}

// question asks for a report and returns when it is there, or ctx ends.
func (l *link) question(ctx context.Context) {
	if l.silent.Load() {
		return
	}
	number, answered := l.questions.add()
	defer l.questions.remove(number)
	l.send(message{Type: msgQuestion, Question: number}, nil) // if nobody listens, the link ends soon
	select {
	case <-answered:
	case <-l.ended: // with its last report, if it had the time for one
	case <-ctx.Done():
		// Not if it is the asker who does not wait: the answer may be here.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			l.questions.ifWaiting(number, func() { l.silent.Store(true) })
		}
	}
}

// exchange takes what concerns reports from what a neighbour says, whatever
// else this generation is busy with, and tells whether that was all.
func (g *Generation) exchange(l *link, fromPredecessor bool) func(message) bool {
	return func(m message) bool {
		switch {
		case m.Hello != nil && !fromPredecessor:
			g.meetSuccessor(l, m.Hello)
		case m.Type == msgQuestion:
			g.report(l, message{Type: msgReport}, !fromPredecessor, m.Question)
		case m.Report != nil:
			g.takeReport(l, m.Report)
			l.questions.remove(m.Report.Answers)
		}
		return m.Type == msgQuestion || m.Type == msgReport
	}
}

// report sends a message with a report, for the successor or for the predecessor,
// as the answer to a question if that has a number.
func (g *Generation) report(l *link, m message, toSuccessor bool, answers uint64) {
	l.reporting.Lock()
	defer l.reporting.Unlock()
	m.Report = g.currentReport(toSuccessor)
	m.Report.Answers = answers
	l.send(m, nil) // one that is lost is followed by another
}

func (g *Generation) currentReport(toSuccessor bool) *report {
	g.mu.Lock()
	r := &report{State: g.state.String(), Load: g.load()}
	beyond := g.future
	if toSuccessor {
		beyond = g.past
	}
	g.mu.Unlock()
	r.Counts = beyond
	if g.opts.Counts != nil && r.State != Starting.String() {
		r.Counts = beyond.plus(g.opts.Counts())
	}
	return r
}

// meetSuccessor notes who is at the other end of the link, if that is still
// the one of the upgrade under way.
func (g *Generation) meetSuccessor(l *link, h *hello) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ahead == l {
		g.after = &member{hello: *h, link: l, state: Starting}
		g.after.Generation = g.number + 1
	}
}

func (g *Generation) takeReport(l *link, r *report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var m *member
	switch l {
	case g.link:
		m, g.past = g.before, r.Counts
	case g.ahead:
		m, g.future = g.after, r.Counts
	}
	if m == nil {
		return
	}
	m.load = r.Load
	for state, name := range stateNames {
		if name == r.State {
			m.state = State(state)
		}
	}
}

// load returns what this generation has in hand. The caller holds g.mu.
func (g *Generation) load() Load {
	if g.service == nil {
		return Load{}
	}
	return g.service.Load()
}

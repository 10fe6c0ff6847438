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
	var asked sync.WaitGroup
	for _, l := range g.neighbours() {
		asked.Go(func() { l.question(ctx) })
	}
	asked.Wait()

	g.mu.Lock()
	defer g.mu.Unlock()
	return g.beyond(nil)
}

// neighbours returns the links to those that can be asked.
func (g *Generation) neighbours() (links []*link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.predecessors {
		if !p.reported {
			links = append(links, p.link)
		}
	}
	if g.after != nil { // it may serve before this generation hears of it
		links = append(links, g.after.link)
	}
	return links
}

// beyond returns what all generations but this one have counted, and but the one at
// the other end of a link. The caller holds g.mu.
func (g *Generation) beyond(except *link) Counts {
	sum := g.past
	if except != g.ahead || except == nil {
		sum = sum.plus(g.future)
	}
	for _, p := range g.predecessors {
		if p.link != except {
			sum = sum.plus(p.counts)
		}
	}
	return sum
}

// question asks for a report and returns when it is there, or ctx ends.
func (l *link) question(ctx context.Context) {
	if l.silent.Load() {
		return
	}
	number, answered := l.questions.add()
	defer l.questions.remove(number)
	l.send(message{Type: msgQuestion, Question: number}) // if nobody listens, the link ends soon
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
func (g *Generation) exchange(l *link, fromPredecessor bool) func(*message) bool {
	return func(m *message) bool {
		switch {
		case m.Hello != nil && m.Type == msgHello && !fromPredecessor:
			g.meetSuccessor(l, m)
		case m.Type == msgQuestion:
			g.report(l, message{Type: msgReport}, m.Question)
		case m.Type == msgOffer && fromPredecessor:
			g.takeOffer(l, m)
		case m.Type == msgTaken && !fromPredecessor:
			l.offers.answered(m.Batch, m.Refused)
		case m.Type == msgPredecessor && fromPredecessor:
			g.inheritPredecessor(l, m)
		case m.Report != nil:
			g.mu.Lock()
			g.takeReport(l, m.Report)
			g.mu.Unlock()
			l.questions.remove(m.Report.Answers)
		}
		switch m.Type {
		case msgQuestion, msgReport, msgOffer, msgTaken:
			m.close()
			return true
		}
		return false
	}
}

// report sends a message with a report over a link, as the answer to a question if
// that has a number.
func (g *Generation) report(l *link, m message, answers uint64) error {
	l.reporting.Lock()
	defer l.reporting.Unlock()
	m.Report = g.currentReport(l)
	m.Report.Answers = answers
	return l.send(m) // one that is lost is followed by another
}

// currentReport is what the one at the other end of a link may not know: all
// counts but its own, and but those of generations that it answers for itself.
func (g *Generation) currentReport(to *link) *report {
	g.mu.Lock()
	r := &report{State: g.state.String(), Load: g.load(), Counts: g.beyond(to)}
	service := g.service
	g.mu.Unlock()
	if c, ok := service.(Counter); ok && r.State != Starting.String() {
		r.Counts = r.Counts.plus(c.Counts())
	}
	return r
}

// meetSuccessor notes who is at the other end of the link, if that is still
// the one of the upgrade under way. It may be another one later: the generation
// that serves then.
func (g *Generation) meetSuccessor(l *link, m *message) {
	g.mu.Lock()
	another := g.after != nil
	if g.ahead == l && !(another && g.after.state < Serving) {
		if another {
			g.after.process.close()
		}
		g.after = &member{hello: *m.Hello, link: l, process: openProcess(m.sender), state: Starting}
		g.after.Generation = max(m.Hello.Generation, g.number+1)
		if another {
			g.after.state = Serving
			defer g.report(l, message{Type: msgReport}, 0)
		}
	}
	g.mu.Unlock()
}

// takeReport notes what a neighbour has reported. The caller holds g.mu.
func (g *Generation) takeReport(l *link, r *report) {
	var m *member
	if l == g.ahead {
		m, g.future = g.after, r.Counts
	}
	for _, p := range g.predecessors {
		if p.link == l {
			m, p.counts = p, r.Counts
		}
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
	if l == g.link && m.state >= Draining {
		select {
		case <-g.relieved:
		default:
			close(g.relieved)
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

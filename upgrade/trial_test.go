package upgrade_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/baton/upgrade"
)

// sharer is a whoami whose connections can be shared, before it has answered on them.
type sharer struct {
	*whoami
	fails    bool
	unserved uint64

	mu      sync.Mutex
	handoff upgrade.Handoff
	share   float64 // of the connections
	resumed *sync.Cond
	n       float64 // connections accepted while they are shared
}

func (s *sharer) Serve() {
	s.resumed = sync.NewCond(&s.mu)
	for _, ln := range s.listeners {
		s.accepting.Go(func() {
			for {
				nc, err := ln.Accept()
				switch {
				case errors.Is(err, os.ErrDeadlineExceeded):
					s.mu.Lock()
					for s.share == 1 {
						s.resumed.Wait()
					}
					s.mu.Unlock()
				case err != nil:
					return
				case !s.migrate(ln, nc):
					s.serve(ln, nc)
				}
			}
		})
	}
}

// migrate gives a connection to the successor, if it is its turn.
func (s *sharer) migrate(ln net.Listener, nc net.Conn) bool {
	s.mu.Lock()
	h, n := s.handoff, s.n
	s.n += s.share
	s.mu.Unlock()
	if h.Migrate == nil || int(n) == int(n+s.share) {
		return false
	}
	taken := h.Migrate(context.Background(), []upgrade.Connection{{Conn: nc, Listener: ln}})[0]
	if taken {
		nc.Close()
	}
	return taken
}

func (s *sharer) Adopt(c upgrade.Connection) func() {
	return func() {
		if nc, err := c.Conn.(upgrade.Unopened).Open(); err == nil {
			s.serve(c.Listener, nc)
		}
	}
}

func (s *sharer) Share(h upgrade.Handoff, share float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handoff, s.share, s.n = h, share, 0.99
	if share == 1 {
		s.setDeadlines(time.Unix(1, 0))
	}
}

func (s *sharer) Reclaim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handoff, s.share = upgrade.Handoff{}, 0
	s.setDeadlines(time.Time{})
	s.resumed.Broadcast()
}

func (s *sharer) setDeadlines(t time.Time) {
	for _, ln := range s.listeners {
		ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(t)
	}
}

func (s *sharer) Drain(ctx context.Context, h upgrade.Handoff) upgrade.Drained {
	if s.resumed != nil {
		s.Reclaim()
	}
	return s.whoami.Drain(ctx, h)
}

func (s *sharer) Outcomes() (o upgrade.Outcomes) {
	o.Started = uint64(s.answered.Load())
	o.Answered, o.Ended = o.Started, o.Started
	if s.fails {
		o.Failed = o.Ended
	}
	return o
}

func (s *sharer) Unserved() (address string, connections uint64) { return "another port", s.unserved }

// visits asks who answers, again and again, until stop is called, which returns how often each
// generation did.
func (l *line) visits() (stop func() map[int]int) {
	counts, ended, end := map[int]int{}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(5 * time.Millisecond):
			}
			a, err := l.try()
			if err != nil {
				l.t.Errorf("nobody answers: %v", err)
				return
			}
			counts[a.Generation]++
		}
	}()
	return func() map[int]int { close(end); <-ended; return counts }
}

// A successor that fails on live requests is taken back, in the trial or after it has taken over,
// and no client is refused at any moment.
func TestTrial(t *testing.T) {
	t.Parallel()
	const soon = 300 * time.Millisecond
	for name, test := range map[string]struct {
		trial    upgrade.Trial
		fails    bool
		unserved uint64
		act      func(*line) error // once the stage has begun
		stage    string
		fault    string // of the upgrade; empty: it succeeds
		shared   bool   // the successor has answered
	}{
		"good":              {trial: upgrade.Trial{Share: 0.5, Time: soon, Watch: soon}, shared: true},
		"bad in the trial":  {trial: upgrade.Trial{Share: 0.5, Time: time.Hour}, fails: true, fault: "trial: ", shared: true},
		"bad in the watch":  {trial: upgrade.Trial{Watch: time.Hour}, fails: true, fault: "watch: ", shared: true},
		"another port":      {trial: upgrade.Trial{Watch: time.Hour}, unserved: 3, fault: "watch: 3 clients have connected to another port, ", shared: true},
		"promoted":          {trial: upgrade.Trial{Share: 0.5, Time: time.Hour}, stage: upgrade.StageTrial, act: (*line).promote, shared: true},
		"promoted in watch": {trial: upgrade.Trial{Watch: time.Hour}, stage: upgrade.StageWatch, act: (*line).promote, shared: true},
		"aborted":           {trial: upgrade.Trial{Share: 0.5, Time: time.Hour}, stage: upgrade.StageTrial, act: (*line).abort, fault: "trial: aborted on request: slow"},
		"aborted in watch":  {trial: upgrade.Trial{Watch: time.Hour}, stage: upgrade.StageWatch, act: (*line).abort, fault: "watch: aborted on request: slow"},
		"killed":            {trial: upgrade.Trial{Share: 0.1, Time: time.Hour}, stage: upgrade.StageTrial, act: (*line).killSuccessor, fault: "successor died in the trial"},
		"killed in watch":   {trial: upgrade.Trial{Watch: time.Hour}, stage: upgrade.StageWatch, act: (*line).killSuccessor, fault: "successor died in the watch"},
		"stopped by itself": {trial: upgrade.Trial{Share: 0.5, Time: time.Hour}, stage: upgrade.StageTrial, act: (*line).terminateSuccessor, fault: "successor gave up: generation 2 failed: stopped by terminated before it was ready"},
		"stopped in watch":  {trial: upgrade.Trial{Watch: time.Hour}, stage: upgrade.StageWatch, act: (*line).terminateSuccessor, fault: "successor gave up: generation 2 failed: stopped by terminated before it was ready"},
		"undecided is bad":  {trial: upgrade.Trial{Share: 0.5, Time: time.Millisecond, AbortUndecided: true}, fault: "trial: undecided: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			l.setPlan(func(p *plan) { p.Trial, p.Unserved = test.trial, test.unserved })
			l.launch()
			l.setPlan(func(p *plan) { p.Fails = test.fails })
			done := make(chan upgrade.Outcome)
			stop := l.visits()
			if strings.HasPrefix(name, "killed") { // a visit of the dead is lost
				stop()
				stop = func() map[int]int { return nil }
			}
			go func() { o, _ := l.ask(nil); done <- o }()
			if test.act != nil {
				l.await("the "+test.stage, func() bool {
					s, err := l.status()
					return err == nil && s.Trial != nil && s.Trial.Stage == test.stage
				})
				if err := test.act(l); err != nil {
					t.Error(err)
				}
			}
			o := <-done
			counts := stop()
			if (o.Result == upgrade.Succeeded) != (test.fault == "") || !strings.HasPrefix(o.Reason, test.fault) {
				t.Errorf("got %s, want %q", o, test.fault)
			}
			if test.shared && test.act == nil && counts[2] == 0 {
				t.Error("the successor has answered nobody")
			}
			s, err := l.status()
			if err != nil || test.fault != "" && s.Generation != 1 || test.fault == "" && s.Generation != 2 {
				t.Fatalf("got generation %d, %v", s.Generation, err)
			}
			if s.Trial == nil || s.Trial.Stage != "" || (s.Trial.Verdict == upgrade.VerdictBad) != (test.fault != "") {
				t.Errorf("got %+v of the trial", s.Trial)
			}
			// Whatever has come of it, the next upgrade works.
			l.setPlan(func(p *plan) { p.Fails = false })
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			untried := upgrade.Overrides{Share: new(float64), Watch: new(time.Duration)}
			if o, err := upgrade.Ask(ctx, l.plan.Control, untried, nil); err != nil || o.Result != upgrade.Succeeded {
				t.Errorf("got %s, %v of the next upgrade", o, err)
			}
		})
	}
}

func (l *line) promote() error {
	return upgrade.Promote(context.Background(), l.plan.Control)
}

func (l *line) abort() error {
	return errors.Join(upgrade.Abort(context.Background(), l.plan.Control, "slow"))
}

func (l *line) killSuccessor() error { return syscall.Kill(l.awaitSuccessor(), syscall.SIGKILL) }

func (l *line) terminateSuccessor() error { return syscall.Kill(l.awaitSuccessor(), syscall.SIGTERM) }

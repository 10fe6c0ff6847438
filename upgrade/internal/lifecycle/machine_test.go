package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const timeout = time.Minute // of upgrades

// first is the configuration of a first generation, and second that of its successor.
func first() Config {
	return Config{Generation: 1, Started: epoch, UpgradeTimeout: timeout, MaxDraining: 1}
}

func second() Config {
	return Config{Generation: 2, Started: epoch, UpgradeTimeout: timeout, MaxDraining: 1, Gate: GateHeld,
		Predecessor: &Member{ID: 1, Generation: 1, PID: 100, Protocol: 2, Drain: 30 * time.Second},
		Begun:       epoch, Deadline: epoch.Add(timeout)}
}

// ordered is that of a successor whose predecessor decides when it takes over: second is that of
// one from a past release.
func ordered() Config {
	c := second()
	c.Predecessor.Protocol = ordersSince
	return c
}

// is is an event of a kind, now.
func is(k Kind) Event {
	return Event{Kind: k, ID: 1, By: "terminated", Protocol: 2, PID: 200, Version: "v"}
}

// later is an event after some time.
func later(d time.Duration, e Event) Event {
	e.Now = time.Time{}.Add(d)
	return e
}

func control(w Waiter) Event { return Event{Kind: ControlTrigger, Waiter: w} }
func signal(origin int) Event {
	return Event{Kind: SignalTrigger, Origin: origin}
}
func failed(k Kind) Event { return Event{Kind: k, Err: errors.New("broken")} }
func added(id ID, generation int) Event {
	return Event{Kind: PredecessorAdded, Member: Member{ID: id, Generation: generation, PID: 100 + generation, Protocol: 2}}
}
func of(id ID, k Kind) Event { return Event{Kind: k, ID: id} }

var (
	begin = []Event{is(Begun), is(CheckPassed), is(Prepared)}
	ask   = control("waiter")
	early = Event{Kind: SuccessorExited, InGrace: true}
)

// what is one line for each action, without the log, timers and reports, which most rows
// have nothing to say of.
func what(actions []Action) (lines []string) {
	for _, a := range actions {
		line := verbNames[a.Do]
		switch a.Do {
		case Log, Arm, Disarm, Progress, DrainProgress, Report, Enter, Account, EndStage:
			continue
		case ReportTo, Watch, Kill, Forget, ReleaseLink, PassLink, FollowLink:
			line += fmt.Sprintf(" %d", a.ID)
		case Refuse, Forward, Fail, Succeed, Revoke, Execute:
			if len(a.Trigger.Waiters) > 0 {
				line += fmt.Sprint(" ", a.Trigger.Waiters)
			}
			if len(a.Trigger.Origins) > 0 {
				line += fmt.Sprint(" ", a.Trigger.Origins)
			}
			if a.Text != "" {
				line += ": " + a.Text
			}
		case Dismiss:
			if a.Duration > 0 {
				line += " " + a.Duration.String()
			}
		case Share:
			line += fmt.Sprintf(" %v", a.Share)
		case SendTakeBack, Answer:
			if a.Text != "" {
				line += ": " + a.Text
			}
		case Exit:
			if a.Err != nil {
				line += ": " + a.Err.Error()
			}
		}
		lines = append(lines, line)
	}
	return lines
}

var verbNames = [verbs]string{
	Log: "log", Enter: "enter", Arm: "arm", Disarm: "disarm", Check: "check", CancelCheck: "cancel check", Prepare: "prepare",
	Commit: "commit", Serve: "serve", SendPrepared: "send prepared", SendServing: "send serving", SendTakeOver: "send take over", SendCommit: "send commit",
	DrainToPredecessor: "drain to predecessor", OpenControl: "open control", Announce: "announce", RestoreStderr: "restore stderr",
	BeginStop: "begin stop", Account: "account", AssumeServing: "assume serving", DrainForStop: "drain for stop", DrainToSuccessor: "drain to successor", CutDrain: "cut drain",
	RunHooks: "run hooks", RunStopHooks: "run stop hooks", Finish: "finish", Exit: "exit", Progress: "progress", DrainProgress: "drain progress",
	Refuse: "refuse", Forward: "forward", Fail: "fail", Succeed: "succeed", Execute: "execute", SendStop: "send stop",
	StopFlip: "stop flip", Dismiss: "dismiss", Abandon: "abandon", HandOver: "hand over", ReleasePipe: "release pipe",
	Report: "report", ReportDrained: "report drained", WatchSuccessor: "watch successor", Orphaned: "orphaned",
	HoldListeners: "hold listeners", ReleaseListeners: "release listeners", Rescue: "rescue", Revoke: "revoke",
	ReportTo: "report to", Watch: "watch", Kill: "kill", Forget: "forget", ReleaseLink: "release link",
	PassLink: "pass link", FollowLink: "follow link",
	Share: "share", EndStage: "end stage", Reclaim: "reclaim", Judge: "judge", SendTakeBack: "send take back", SendReturning: "send returning", KillUnknown: "kill unknown", Answer: "answer",
}

// race is one row: what happens to a generation, in which order, and what it does about the
// events after the setup.
type race struct {
	name    string
	config  Config
	setup   []Event
	events  []Event
	want    string // actions, separated by semicolons
	phase   Phase
	attempt Attempt
	log     string // a line that is logged
}

// play plays events one after the other and returns the actions.
func play(m *Machine, now *time.Time, events []Event) (actions []Action) {
	for _, e := range events {
		*now = now.Add(e.Now.Sub(time.Time{}))
		e.Now = *now
		actions = append(actions, m.Handle(e)...)
	}
	return actions
}

func (r race) test(t *testing.T) {
	m, now := New(r.config), epoch
	play(m, &now, r.setup)
	actions := play(m, &now, r.events)
	if got := strings.Join(what(actions), "; "); got != r.want {
		t.Errorf("actions:\ngot  %s\nwant %s", got, r.want)
	}
	if m.Phase() != r.phase || m.attempt != r.attempt {
		t.Errorf("got phase %v and attempt %v, want %v and %v", m.Phase(), m.attempt, r.phase, r.attempt)
	}
	logged := slices.ContainsFunc(actions, func(a Action) bool { return a.Do == Log && a.Text == r.log })
	if r.log != "" && !logged {
		t.Errorf("%q is not logged", r.log)
	}
}

func then(setup []Event, more ...Event) []Event { return append(slices.Clone(setup), more...) }

var attemptNames = [...]string{"none", "executing", "executing unlinked", "greeted", "trying", "taking over", "watching", "taking back", "confirmed", "confirmed unlinked",
	"confirmed stopped", "ready", "ready greeted", "dismissed", "dismissed exited", "dismissed returned",
	"succeeded", "succeeded unlinked", "succeeded lost", "replaced", "succeeded gone"}

// String returns the attempt's name.
func (a Attempt) String() string { return attemptNames[a] }

package upgrade

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"example.com/baton/upgrade/internal/judge"
	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
)

// returnSlack is added to the time that a successor's drain and hooks may take, before one that
// was taken back is killed.
const returnSlack = 5 * time.Second

// leastBaseline is how many requests of an upgrade's time make a baseline for the watch. With
// fewer it is all that the generation has served.
const leastBaseline = 100

// comparison is of the two generations in one stage.
type comparison struct {
	judge       *judge.Judge
	began       time.Time
	own, theirs Outcomes // when it began
	before      Outcomes // of this generation, that count too: in the watch it serves hardly any request
	slow        bool     // nothing but the time that requests take is bad
}

// canTry reports whether a successor can be tried on the service's connections.
func (r *run) canTry() bool {
	_, shares := r.service.(Sharer)
	_, judged := r.service.(Judged)
	return shares && judged
}

// plan returns how successors are tried.
func (r *run) plan(t Trial) lifecycle.Trial {
	if !r.canTry() {
		if t.Share > 0 || t.Watch > 0 {
			r.log.Warn("successors are not tried: the service is no upgrade.Sharer, or not upgrade.Judged")
		}
		return lifecycle.Trial{}
	}
	return lifecycle.Trial{Share: t.Share, Time: t.Time, Watch: t.Watch, AbortUndecided: t.AbortUndecided}
}

// outcomes returns what has become of the requests of this generation.
func (g *Generation) outcomes() (o Outcomes) {
	g.mu.Lock()
	service, ok := g.service.(Judged)
	g.mu.Unlock()
	if ok {
		o = service.Outcomes()
	}
	return o
}

// share gives the successor a share of the connections, or all, and begins to compare.
func (r *run) share(a lifecycle.Action) {
	r.adoption.begin(r.service) // for what it returns
	if inode := r.attempt.theirs; inode != 0 {
		r.attempt.theirs = 0
		if err := r.flip.LeaveCopies(inode); err != nil {
			r.log.Warn("the end of the link may be noticed late", "error", err)
		}
	}
	c := &comparison{judge: judge.New(judge.Options{Latency: r.opts.Trial.Latency}), began: time.Now(), own: r.outcomes()}
	t := &TrialStatus{Stage: StageTrial, Share: a.Share, Began: c.began, Ends: a.At, From: r.number, To: r.number + 1}
	r.mu.Lock()
	c.theirs = r.successor.outcomes
	if a.Stage == lifecycle.StageWatch {
		t.Stage = StageWatch
		if c.before = c.own.Minus(r.attempt.began); c.before.Ended < leastBaseline {
			c.before = c.own
		}
	}
	r.attempt.comparison = c
	r.beginStage(t, c.before)
	r.mu.Unlock()
	r.service.(Sharer).Share(r.handoff(), a.Share)
	if a.Share == 1 {
		go debug.FreeOSMemory() // the successor needs it now
	}
}

// compare compares the two, in a goroutine of its own: the successor is asked first.
func (r *run) compare() {
	a, c := r.attempt, r.attempt.comparison
	stage := lifecycle.StageTrial
	r.mu.Lock()
	t := *r.trial
	r.mu.Unlock()
	if t.Stage == StageWatch {
		stage = lifecycle.StageWatch
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
		defer cancel()
		question(ctx, []*link.Link{a.link})
		own := r.outcomes()
		r.mu.Lock()
		if r.attempt != a || r.successor == nil {
			r.mu.Unlock()
			return
		}
		t.Successor, t.Serving = r.successor.outcomes.Minus(c.theirs), own.Minus(c.own).Plus(c.before)
		if r.trial.Stage == t.Stage {
			*r.trial = t
		}
		r.mu.Unlock()
		v := c.judge.Observe(time.Since(c.began), t.Successor, t.Serving)
		text := judge.Summary(t.Successor, t.Serving)
		if t.Stage == StageTrial {
			text = fmt.Sprintf("%g %% of connections, %s", 100*t.Share, text)
		}
		slower := c.judge.Slower()
		if slower != "" {
			text += "; " + slower
		}
		e := lifecycle.Event{Kind: lifecycle.Judged, PID: a.next.PID, Stage: stage, Text: text}
		switch v.Decision {
		case judge.Good:
			e.Verdict = lifecycle.Good
		case judge.Bad:
			e.Verdict, e.Text, c.slow = lifecycle.Bad, v.Reason, v.Reason == slower
		}
		r.post(e)
	}()
}

// endStage notes how a trial or a watch has ended.
func (r *run) endStage(a lifecycle.Action) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := *r.trial
	t.Stage, t.Ends, t.Verdict, t.Reason = "", time.Now(), a.Verdict.String(), shorten(a.Text)
	r.trial = &t
}

// takebacks are the reasons for a take-back, by the event that has led to it.
var takebacks = map[lifecycle.Kind]Takeback{
	lifecycle.Judged:              TakebackFailed,
	lifecycle.StageOver:           TakebackUndecided,
	lifecycle.Abort:               TakebackAborted,
	lifecycle.SuccessorReturns:    TakebackDied,
	lifecycle.SuccessorLinkEnded:  TakebackDied,
	lifecycle.SuccessorLinkClosed: TakebackDied,
	lifecycle.FlipFailed:          TakebackDied,
	lifecycle.StartLate:           TakebackDied,
}

// reclaim accepts again.
func (r *run) reclaim(a lifecycle.Action) {
	r.service.(Sharer).Reclaim()
	reason, ok := takebacks[a.Cause]
	if !ok { // the service stops
		return
	}
	if a.Cause == lifecycle.Judged && r.attempt.comparison.slow {
		reason = TakebackSlow
	}
	r.countTakeback(reason)
}

func (r *run) sendTakeBack(a lifecycle.Action) {
	if l := r.attempt.link; l != nil {
		r.sendSurely(l, link.Message{Type: link.TypeTakeBack, Reason: shorten(a.Text)})
	}
}

// sendReturning notifies the predecessor that this generation returns what it has.
func (r *run) sendReturning(a lifecycle.Action) {
	if r.link != nil {
		r.sendSurely(r.link, link.Message{Type: link.TypeReturning, Reason: shorten(a.Text)})
	}
}

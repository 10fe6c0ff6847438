package upgrade

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"time"

	"example.com/baton/upgrade/internal/judge"
	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
	"example.com/baton/upgrade/internal/process"
	"golang.org/x/sys/unix"
)

// returnSlack is added to the time that a successor's drain and hooks may take, before one that
// was taken back is killed.
const returnSlack = 5 * time.Second

// leastBaseline is how many requests of an upgrade's time make a baseline for the watch: of 1,000
// without a failure a successor can be recognized that fails 1 %. With fewer it is all that the
// generation has served.
const leastBaseline = 1000

// silenceLimit is for how long a successor may leave questions unanswered: one that hangs counts
// nothing, and so cannot be judged by its requests.
const silenceLimit = 5 * time.Second

// comparison is of the two generations in one stage.
type comparison struct {
	judge       *judge.Judge
	stage       lifecycle.Stage
	share       float64
	began       time.Time
	own, theirs Outcomes // when it began
	before      Outcomes // of this generation, that count too: in the watch it serves hardly any request

	successor, serving Outcomes // what was compared last

	last    time.Time     // when that was
	silence time.Duration // since the successor's last answer

	unfit string // why the successor is bad, whatever becomes of its requests; empty: it is not
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

// share gives the successor a share of the connections, or all, and begins to compare.
func (r *run) share(a lifecycle.Action) {
	r.adoption.begin(r.service) // for what it returns
	if inode := r.attempt.theirs; inode != 0 {
		r.attempt.theirs = 0
		if err := r.flip.LeaveCopies(inode); err != nil {
			r.log.Warn("the end of the link may be noticed late", "error", err)
		}
	}
	c := &comparison{judge: judge.New(judge.Options{Latency: r.opts.Trial.Latency}), stage: a.Stage, share: a.Share, began: time.Now(), own: r.outcomes()}
	t := TrialStatus{Stage: StageTrial, Share: a.Share, Began: c.began, Ends: a.At, From: r.number, To: r.number + 1}
	resources := r.resources()
	r.mu.Lock()
	c.theirs = r.successor.outcomes
	r.attempt.resources = r.attempt.resources.Most(resources)
	if a.Stage == lifecycle.StageWatch {
		t.Stage = StageWatch
		if c.before = c.own.Minus(r.attempt.began); c.before.Ended < leastBaseline {
			c.before = c.own
		}
	}
	r.attempt.comparison = c
	r.mu.Unlock()
	t.Serving = c.before
	r.setTrial(t)
	r.reclaiming.Wait()
	share := a.Share
	if a.Stage == lifecycle.StageTrial {
		share = min(share, math.Nextafter(1, 0)) // this generation accepts, whatever the share
	}
	r.service.(Sharer).Share(r.handoff(), share)
	if a.Share == 1 {
		go debug.FreeOSMemory() // the successor needs it now
	}
}

// compare compares the two, in a goroutine of its own: the successor is asked first.
func (r *run) compare() {
	a, c := r.attempt, r.attempt.comparison
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
		defer cancel()
		answered := question(ctx, []*link.Link{a.link}) && !a.link.Silent()
		own, resources := r.outcomes(), r.resources()
		r.mu.Lock()
		successor := r.successor
		if successor == nil { // the attempt is over
			r.mu.Unlock()
			return
		}
		theirs, load := successor.outcomes, successor.load
		a.resources = a.resources.Most(resources) // the stage before may still be at it
		most := a.resources
		r.mu.Unlock()
		c.listen(time.Now(), answered)
		c.unfit = judge.Exhausting(resourcesOf(a.next.PID, load), most, resourceLimits())
		if holder, ok := r.service.(Holder); ok && c.unfit == "" {
			c.unfit = judge.Unserved(holder.Unserved())
		}
		r.post(c.observe(theirs, own, a.next.PID))
	}()
}

// resources returns what this generation has.
func (r *run) resources() judge.Resources { return resourcesOf(os.Getpid(), r.load()) }

// resourcesOf returns what a generation has. What cannot be found out is 0.
func resourcesOf(pid int, load Load) judge.Resources {
	u, err := process.UsageOf(pid)
	if err != nil {
		return judge.Resources{}
	}
	c := load.Connections
	connections := uint64(c.New + c.Active + c.Idle + c.Hijacked)
	return judge.Resources{Descriptors: u.Descriptors - min(u.Descriptors, connections), Memory: u.Memory}
}

// resourceLimits returns what limits a successor, as it limits this generation.
func resourceLimits() (limit judge.Resources) {
	var descriptors unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &descriptors) == nil {
		limit.Descriptors = descriptors.Cur
	}
	limit.Memory, _ = process.MemoryLeft()
	return limit
}

// listen notes whether the successor has answered. A time in which this process did not run itself,
// because it was stopped say, is no silence of the successor's.
func (c *comparison) listen(now time.Time, answered bool) {
	if !c.last.IsZero() {
		c.silence += min(now.Sub(c.last), time.Second)
	}
	if answered {
		c.silence = 0
	}
	c.last = now
}

// observe compares the two, and returns the outcome as an event.
func (c *comparison) observe(theirs, own Outcomes, pid int) lifecycle.Event {
	c.successor, c.serving = theirs.Minus(c.theirs), own.Minus(c.own).Plus(c.before)
	v := c.judge.Observe(time.Since(c.began), c.successor, c.serving)
	text := judge.Summary(c.successor, c.serving)
	if c.stage == lifecycle.StageTrial {
		text = percent(c.share, -1) + " of connections, " + text
	}
	if slower := c.judge.Slower(); slower != "" {
		text += "; " + slower
	}
	e := lifecycle.Event{Kind: lifecycle.Judged, PID: pid, Stage: c.stage, Text: text}
	switch {
	case c.silence >= silenceLimit:
		e.Verdict, e.Text, e.Cause = lifecycle.Bad, fmt.Sprintf("the successor hangs: no answer from it for %v", silenceLimit), lifecycle.Death
	case c.unfit != "":
		e.Verdict, e.Text, e.Cause = lifecycle.Bad, c.unfit, lifecycle.Failures
	case v.Decision == judge.Good:
		e.Verdict = lifecycle.Good
	case v.Decision == judge.Bad:
		e.Verdict, e.Text, e.Cause = lifecycle.Bad, v.Reason, lifecycle.Failures
		if v.Slow {
			e.Cause = lifecycle.Slowness
		}
	}
	return e
}

// noteComparison shows what the last comparison has found, before the machine decides on it.
func (r *run) noteComparison() {
	if t := r.Trial(); r.attempt != nil && r.attempt.comparison != nil && t.Running() {
		t.Successor, t.Serving = r.attempt.comparison.successor, r.attempt.comparison.serving
		r.setTrial(*t)
	}
}

// takebacks has what a cause is called.
var takebacks = map[lifecycle.Cause]Takeback{
	lifecycle.Failures: TakebackFailed, lifecycle.Slowness: TakebackSlow, lifecycle.Doubt: TakebackUndecided,
	lifecycle.Death: TakebackDied, lifecycle.Request: TakebackAborted,
}

// endStage notes how a trial or a watch has ended.
func (r *run) endStage(a lifecycle.Action) {
	t := r.Trial()
	t.Stage, t.Ends, t.Verdict, t.Reason = "", time.Now(), a.Verdict.String(), a.Text
	r.setTrial(*t)
}

// reclaim accepts again. A successor that hangs may not answer what it was offered: that must not
// stop this generation from ending it.
func (r *run) reclaim(a lifecycle.Action) {
	r.countTakeback(takebacks[a.Cause])
	sharer := r.service.(Sharer)
	r.reclaiming.Go(sharer.Reclaim)
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

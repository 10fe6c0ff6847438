package upgrade

import (
	"maps"
	"time"
)

// Takeback is why a predecessor has taken back, as metrics spell it.
type Takeback string

// The values of Takeback.
const (
	TakebackFailed    Takeback = "failed"    // the answers of the successor were judged bad
	TakebackSlow      Takeback = "slow"      // it was much slower
	TakebackUndecided Takeback = "undecided" // it had too few requests, and is not promoted then
	TakebackDied      Takeback = "died"      // it exited, or did not go on
	TakebackAborted   Takeback = "aborted"   // by [Abort]
)

// TrialCounts are what a generation has counted as the predecessor in its trials. They never
// go down.
type TrialCounts struct {
	// Successor and Serving are the judged requests of the successors, and those of the generation
	// itself at the same time: "succeeded", "failed", "denied", "redirected" and "empty".
	Successor, Serving map[string]uint64
	Takebacks          map[Takeback]uint64
}

// trials has the last trial that is known, and counts those before it.
type trials struct {
	trial    *TrialStatus // the one that runs, or the last one; nil: none
	baseline Outcomes     // what its Serving has begun with
	tried    TrialCounts  // without it
}

// setTrial notes how a trial stands. Its requests count, but for the Serving of the beginning, which
// were counted before.
func (g *Generation) setTrial(t TrialStatus) {
	t.Reason = shorten(t.Reason)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trial == nil || !g.trial.Began.Equal(t.Began) {
		g.tried, g.baseline = g.trialCounts(), t.Serving
	}
	g.trial = &t
}

// SuccessorReturn returns how long a successor that has not committed may take to return its
// connections and to exit, 0 without one. A stop in its trial waits for that.
func (g *Generation) SuccessorReturn() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.successor == nil {
		return 0
	}
	return g.returnTime()
}

func (g *Generation) returnTime() time.Duration {
	return g.opts.DrainTimeout + g.exitTime() + returnSlack
}

// countTakeback counts that this generation has taken back.
func (g *Generation) countTakeback(reason Takeback) {
	if reason == "" { // the service stops
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tried.Takebacks == nil {
		g.tried.Takebacks = make(map[Takeback]uint64)
	}
	g.tried.Takebacks[reason]++
}

// Trial returns the trial that runs, or else the last one; nil if none is known.
func (g *Generation) Trial() *TrialStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lastTrial()
}

// lastTrial is Trial for callers that hold g.mu.
func (g *Generation) lastTrial() *TrialStatus {
	if g.trial == nil {
		return nil
	}
	t := *g.trial
	if t.From != g.number && g.state >= Serving { // it is over, whatever the predecessor still reported of it
		t.Stage = ""
	}
	return &t
}

// TrialCounts returns what this generation has counted in its trials.
func (g *Generation) TrialCounts() TrialCounts {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.trialCounts()
}

// trialCounts returns the counts of the last trial and of those before it. The caller holds g.mu.
func (g *Generation) trialCounts() TrialCounts {
	var successor, serving Outcomes
	if g.trial != nil && g.trial.From == g.number {
		successor, serving = g.trial.Successor, g.trial.Serving.Minus(g.baseline)
	}
	return TrialCounts{
		Successor: addResults(g.tried.Successor, successor),
		Serving:   addResults(g.tried.Serving, serving),
		Takebacks: maps.Clone(g.tried.Takebacks),
	}
}

// addResults returns a sum of requests by result, and leaves counts as they are.
func addResults(counts map[string]uint64, o Outcomes) map[string]uint64 {
	sum := map[string]uint64{
		"succeeded":  o.Ended - min(o.Ended, o.Failed+o.Denied+o.Redirected+o.Empty),
		"failed":     o.Failed,
		"denied":     o.Denied,
		"redirected": o.Redirected,
		"empty":      o.Empty,
	}
	for result, n := range counts {
		sum[result] += n
	}
	return sum
}

// Running reports whether the trial or the watch after it goes on.
func (t TrialStatus) Running() bool { return t.Stage != "" }

package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.com/baton/upgrade/internal/control"
)

// Trial is how a successor is tried on live requests, and taken back if it fails. The zero
// value tries nothing: a successor that is ready takes over for good. A trial needs a
// service that is a [Sharer] and [Judged].
type Trial struct {
	// Share is the share of the connections, from 0 to 1, that migrates to a successor
	// before it takes over. 0 means that there is no trial.
	Share float64
	// Time is how long that takes. 0 means 30 seconds.
	Time time.Duration
	// Latency fails a successor that is much slower, too.
	Latency bool
	// AbortUndecided fails a successor of which too few requests are known to judge it.
	AbortUndecided bool
	// Watch is how long after the takeover the predecessor can take back. 0 means not at all.
	Watch time.Duration
}

func (t Trial) withDefaults() Trial {
	t.Share = min(max(t.Share, 0), 1)
	if t.Time <= 0 {
		t.Time = 30 * time.Second
	}
	t.Watch = max(t.Watch, 0)
	return t
}

// Stages of a trial, as [TrialStatus] and reports spell them.
const (
	StageTrial = "trial" // the predecessor accepts, and shares connections with its successor
	StageWatch = "watch" // the successor accepts, and the predecessor could take back
)

// Verdicts of a trial, as [TrialStatus] and reports spell them.
const (
	VerdictGood      = "good"
	VerdictBad       = "bad"
	VerdictUndecided = "undecided"
)

// TrialStatus is a trial that runs, or the last one.
type TrialStatus struct {
	Stage string    `json:"stage"` // [StageTrial] or [StageWatch]; empty when it is over
	Share float64   `json:"share"` // of the connections that the successor is given, from 0 to 1
	Began time.Time `json:"began"`
	Ends  time.Time `json:"ends"` // the stage, or the trial if that is over
	From  int       `json:"from"` // generation of the predecessor
	To    int       `json:"to"`   // generation of the successor
	// The requests of both since the trial began.
	Successor Outcomes `json:"successor"`
	Serving   Outcomes `json:"serving"`
	// Verdict is [VerdictGood], [VerdictBad] or [VerdictUndecided]; empty while it runs.
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"` // of the verdict, in numbers
}

// Overrides are what one upgrade does differently than [Options.Trial] has it. What is nil
// stays.
type Overrides struct {
	Share *float64       `json:"share,omitempty"`
	Time  *time.Duration `json:"time,omitempty"`  // nanoseconds
	Watch *time.Duration `json:"watch,omitempty"` // nanoseconds
}

// apply returns the trial of one upgrade.
func (o Overrides) apply(t Trial) Trial {
	if o.Share != nil {
		t.Share = *o.Share
	}
	if o.Time != nil {
		t.Time = *o.Time
	}
	if o.Watch != nil {
		t.Watch = *o.Watch
	}
	return t
}

func (o Overrides) check() error {
	switch {
	case o.Share != nil && !(*o.Share >= 0 && *o.Share <= 1):
		return fmt.Errorf("the share of a trial is %g; want 0 to 1", *o.Share)
	case o.Time != nil && *o.Time <= 0:
		return fmt.Errorf("a trial takes %s; want more than 0s", *o.Time)
	case o.Watch != nil && *o.Watch < 0:
		return fmt.Errorf("a watch takes %s; want 0s or more", *o.Watch)
	}
	return nil
}

// decodeOverrides returns the overrides that a client has requested.
func decodeOverrides(text json.RawMessage) (o Overrides, err error) {
	if err := decode(text, &o); err != nil {
		return Overrides{}, fmt.Errorf("decode the settings of the trial: %w", err)
	}
	return o, o.check()
}

// CheckOverrides implements [control.Handler].
func (statusHandler) CheckOverrides(text json.RawMessage) error {
	_, err := decodeOverrides(text)
	return err
}

// Promote ends a trial or watch as good, now. It returns when that is decided; [Ask] and the
// status report what comes of it. An error wraps [ErrRefused] if no trial is under way, and
// may be another one of those of [AskStatus].
func Promote(ctx context.Context, path string) error {
	return sendVerdict(ctx, path, control.Request{Command: control.Promote})
}

// Abort ends a trial or watch as bad: the predecessor takes back. The reason, of which 500
// bytes are kept, appears in reports; it may be empty. Otherwise Abort is as [Promote] is.
func Abort(ctx context.Context, path, reason string) error {
	return sendVerdict(ctx, path, control.Request{Command: control.Abort, Reason: shorten(reason)})
}

func sendVerdict(ctx context.Context, path string, request control.Request) error {
	return control.Converse(ctx, path, request, func(r control.Reply) error {
		if !r.Final {
			return errors.New("it is not final")
		}
		return nil
	})
}

// shorten returns as much of a reason as is kept.
func shorten(reason string) string {
	if len(reason) > reasonLength {
		reason = strings.ToValidUTF8(reason[:reasonLength], "")
	}
	return reason
}

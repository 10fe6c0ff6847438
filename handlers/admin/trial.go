package admin

import "example.com/baton/handlers/internal/trial"

// trialView is a trial as the status page shows it.
type trialView struct {
	trial.View
	Time, Reason string
}

// Trial returns the trial that runs, or the last one; nil without one.
func (v view) Trial() *trialView {
	t := v.Status.Trial
	if t == nil {
		return nil
	}
	shown := &trialView{View: trial.Show(*t, v.now), Reason: t.Reason}
	if shown.Time = shown.Left; !t.Running() {
		shown.Time = v.Ago(t.Ends)
	}
	return shown
}

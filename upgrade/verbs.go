package upgrade

import (
	"context"

	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
)

// verbs has what each action of the machine means here.
var verbs = map[lifecycle.Verb]func(*run, lifecycle.Action){
	lifecycle.Log: func(r *run, a lifecycle.Action) {
		r.log.Log(context.Background(), a.Level, a.Text, a.Attrs...) //nolint:sloglint // those of the machine are constants
	},
	lifecycle.Enter:  func(r *run, a lifecycle.Action) { r.enter(a.From, a.To) },
	lifecycle.Arm:    func(r *run, a lifecycle.Action) { r.timers[a.Timer] = a.At },
	lifecycle.Disarm: func(r *run, a lifecycle.Action) { delete(r.timers, a.Timer) },

	lifecycle.Check:              plain((*run).check),
	lifecycle.CancelCheck:        plain(func(r *run) { r.cancel() }),
	lifecycle.Prepare:            plain((*run).prepare),
	lifecycle.SendPrepared:       plain((*run).sendPrepared),
	lifecycle.Serve:              plain(func(r *run) { r.service.Serve() }),
	lifecycle.SendServing:        plain((*run).sendServing),
	lifecycle.Commit:             plain((*run).commit),
	lifecycle.SendReturning:      (*run).sendReturning,
	lifecycle.OpenControl:        plain(func(r *run) { r.control.Serve() }),
	lifecycle.Announce:           plain((*run).announce),
	lifecycle.RestoreStderr:      plain(func(r *run) { r.flip.Stderr.Restore() }),
	lifecycle.BeginStop:          plain((*run).beginStop),
	lifecycle.DrainForStop:       plain((*run).drainForStop),
	lifecycle.DrainToSuccessor:   plain((*run).drainToSuccessor),
	lifecycle.DrainToPredecessor: plain((*run).drainToPredecessor),
	lifecycle.CutDrain:           plain(func(r *run) { r.cancel() }),
	lifecycle.Account:            plain((*run).logAccount),
	lifecycle.RunHooks:           plain(func(r *run) { r.startHooks(false) }),
	lifecycle.RunStopHooks:       plain(func(r *run) { r.startHooks(true) }),
	lifecycle.Finish:             plain((*run).finish),
	lifecycle.Exit:               func(r *run, a lifecycle.Action) { r.failure = a.Err },

	lifecycle.Progress:      (*run).progress,
	lifecycle.DrainProgress: (*run).drainProgress,
	lifecycle.Refuse:        (*run).refuse,
	lifecycle.Forward:       (*run).forward,
	lifecycle.Fail:          (*run).fail,
	lifecycle.Succeed:       (*run).succeed,
	lifecycle.Answer:        (*run).answerVerdict,

	lifecycle.Execute:        (*run).execute,
	lifecycle.SendTakeOver:   plain(func(r *run) { r.sendSurely(r.attempt.link, link.Message{Type: link.TypeTakeOver}) }),
	lifecycle.SendCommit:     plain(func(r *run) { r.sendSurely(r.attempt.link, link.Message{Type: link.TypeCommit}) }),
	lifecycle.Share:          (*run).share,
	lifecycle.EndStage:       (*run).endStage,
	lifecycle.Reclaim:        (*run).reclaim,
	lifecycle.Judge:          plain((*run).compare),
	lifecycle.SendTakeBack:   (*run).sendTakeBack,
	lifecycle.SendStop:       plain((*run).sendStop),
	lifecycle.KillUnknown:    plain(func(r *run) { r.flip.KillUnready() }),
	lifecycle.StopFlip:       plain(func(r *run) { r.flip.Stop() }),
	lifecycle.Dismiss:        (*run).dismiss,
	lifecycle.Abandon:        plain(func(r *run) { r.abandon() }),
	lifecycle.AssumeServing:  plain((*run).assumeServing),
	lifecycle.HandOver:       (*run).handOver,
	lifecycle.ReleasePipe:    plain((*run).releasePipe),
	lifecycle.Report:         plain((*run).reportToSuccessor),
	lifecycle.ReportDrained:  plain((*run).reportDrained),
	lifecycle.WatchSuccessor: plain((*run).watchSuccessor),
	lifecycle.Orphaned:       plain((*run).orphaned),

	lifecycle.HoldListeners:    plain((*run).holdListeners),
	lifecycle.ReleaseListeners: plain((*run).releaseListeners),
	lifecycle.Rescue:           (*run).rescue,
	lifecycle.Revoke:           (*run).revoke,

	lifecycle.ReportTo: about(func(r *run, p *member, _ lifecycle.Action) {
		r.report(p.link, link.Message{Type: link.TypeReport}, 0)
	}),
	lifecycle.Watch: about(func(r *run, p *member, _ lifecycle.Action) {
		p.link.FollowPeer(p.process, r.events, r.done)
	}),
	lifecycle.Kill:        about((*run).kill),
	lifecycle.Forget:      about((*run).forget),
	lifecycle.ReleaseLink: about((*run).releaseLink),
	lifecycle.PassLink:    about((*run).passLink),
	lifecycle.FollowLink:  about((*run).followLink),
}

// plain is for actions without parameters.
func plain(do func(*run)) func(*run, lifecycle.Action) {
	return func(r *run, _ lifecycle.Action) { do(r) }
}

// about is for actions that concern a predecessor.
func about(do func(*run, *member, lifecycle.Action)) func(*run, lifecycle.Action) {
	return func(r *run, a lifecycle.Action) {
		for _, p := range r.living() {
			if p.id == a.ID {
				do(r, p, a)
			}
		}
	}
}

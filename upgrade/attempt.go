package upgrade

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.com/baton/upgrade/internal/control"
	"example.com/baton/upgrade/internal/flip"
	"example.com/baton/upgrade/internal/link"
	"example.com/baton/upgrade/internal/process"
)

// attempt is an upgrade under way: what is known of the successor, from its exec to the
// handoff or to its end.
type attempt struct {
	trigger
	link     *link.Link
	protocol int        // that both sides speak; 0: unknown
	next     link.Hello // of the successor, once greeted
	tail     *flip.Tail
	ended    chan error    // the result of flip.Process.Upgrade
	over     chan struct{} // closed when it has failed
	begun    time.Time
	ready    time.Duration

	process process.Process  // the successor, since its hello
	late    <-chan time.Time // once accepted: when it must serve

	dismissed string      // why the successor was given up; empty: it was not
	exited    chan string // cap 1: gets the reason when one that was given up has exited
	returned  bool        // that result is here

	accepted bool // it is nil: the point of no return is passed
	greeted  bool // the successor has sent its hello
	serving  bool // and its serving
	gone     bool // the link has ended
	lost     bool // although the successor lives

	pipe   uint64 // see flip.Process.ReleasePipe
	adopts bool   // connections can migrate there
}

// begin executes the successor.
func (r *run) begin(t trigger) {
	r.enter(Upgrading)
	a := &attempt{trigger: t, ended: make(chan error, 1), over: make(chan struct{}), begun: time.Now()}
	r.attempt = a
	r.log.Info("upgrade begins", "by", t.by)
	r.reply(t.waiters, control.Reply{Progress: fmt.Sprintf("generation %d starts", r.number+1)})
	if err := r.prepare(a); err != nil {
		a.ended <- err
		return
	}
	go func() { a.ended <- r.flip.Upgrade() }()
}

// prepare makes what the successor gets beside the listeners.
func (r *run) prepare(a *attempt) error {
	select {
	case <-r.flip.Exit():
		return errors.New("this generation has handed over once, to a successor that died, and cannot do so again; restart the service")
	default:
	}
	if dir := r.flip.LeaveLostDirectory(); dir != "" {
		r.log.Warn("working directory is gone; relative paths lead nowhere", "directory", dir)
	}
	l, theirs, err := link.New()
	if err != nil {
		return err
	}
	defer theirs.Close()
	load, counts := r.own()
	h := r.introduction()
	if a.signal {
		h.Origins = r.hangup.origins
	}
	h.Trigger, h.Asked, h.Begun, h.Deadline = a.by, a.at, a.begun, a.begun.Add(r.opts.UpgradeTimeout)
	h.Drain = max(r.opts.DrainTimeout+r.exitTime(), r.PredecessorDrain()) // those may come to be waited for
	for _, c := range r.claims {
		h.Claims = append(h.Claims, c.Claim)
	}
	if r.pidFile != nil {
		h.PIDFile = r.pidFile.Path()
	}
	h.Counts = r.currentReport(l, load, counts).Counts
	if k, ok := r.service.(SecretKeeper); ok {
		h.Secret = k.Secret()
	}
	r.mu.Lock()
	if len(r.upgrades) > 0 {
		h.Upgrades = encode(r.upgrades)
	}
	r.mu.Unlock()
	if err = l.Send(link.Message{Type: link.TypeHello, Hello: &h}); err == nil {
		err = r.flip.AddFile(fileLink, theirs)
	}
	if err == nil {
		a.tail, err = r.flip.Stderr.Capture(r.opts.Output)
	}
	if err != nil {
		l.Close()
		return fmt.Errorf("prepare the successor: %w", err)
	}
	r.mu.Lock()
	r.successorLink = l
	r.mu.Unlock()
	a.link = l
	l.Follow(r.events, a.over, r.exchange(l, false))
	return nil
}

// upgradeEnded takes the result of [flip.Process.Upgrade].
func (r *run) upgradeEnded(err error) {
	a := r.attempt
	a.returned = true
	r.flip.Stderr.Release()
	switch {
	case err == nil:
		a.accepted = true
		if a.dismissed == "" {
			a.late = time.After(r.opts.UpgradeTimeout - time.Since(a.begun))
		}
		r.commit()
	case time.Since(a.begun) >= r.opts.UpgradeTimeout:
		r.dismiss(fmt.Sprintf("successor was not ready within %s and was killed", r.opts.UpgradeTimeout), 0)
	default:
		r.dismiss(fmt.Sprintf("successor is no good: %v", err), 0)
	}
	r.concludeDismissal()
}

// dismiss gives up a successor. Whatever has become of the link to it, one generation
// is left: after the grace the successor is killed, and the attempt is over when it
// has exited.
func (r *run) dismiss(reason string, grace time.Duration) {
	a := r.attempt
	if a.dismissed != "" {
		return
	}
	a.dismissed, a.late = reason, nil
	if a.process.Ended() {
		return
	}
	a.exited = make(chan string, 1)
	successor, exited := a.process, a.exited
	go func() {
		if grace > 0 && successor.EndsWithin(grace) {
			exited <- "successor died as it became ready"
			return
		}
		if err := successor.Kill(); err != nil {
			r.log.Error("successor cannot be killed", "successor_pid", successor.PID(), "error", err)
		}
		if !successor.EndsWithin(link.PeerExit) {
			r.log.Warn("successor was killed and has not exited yet; waits for that", "successor_pid", successor.PID())
		}
		if successor.AwaitEnd(r.done) {
			exited <- reason
		}
	}()
}

// concludeDismissal ends the attempt if its successor was given up and has exited.
func (r *run) concludeDismissal() {
	switch a := r.attempt; {
	case a == nil || a.dismissed == "" || a.exited != nil || !a.returned:
	case r.stopping:
		r.abandonForStop()
	default:
		r.failed(a.dismissed)
	}
}

// successorIsLate gives up a successor that is ready but does not serve in time;
// Upgrade does so only before that.
func (r *run) successorIsLate() {
	r.attempt.late = nil
	r.dismissReady(fmt.Sprintf("successor said that it is ready but did not serve within %s and was killed", r.opts.UpgradeTimeout))
}

// dismissReady gives up a successor that is ready. One that has never sent a message
// cannot be killed, since its pid is not known: then the result of Upgrade has to do.
func (r *run) dismissReady(reason string) {
	switch a := r.attempt; {
	case a == nil || !a.accepted || r.handedOver:
	case a.process.Known():
		r.dismiss(reason, 0)
	default:
		r.log.Warn("successor said that it is ready, and nothing else; it is taken to serve")
		r.handOver()
	}
}

// abandon ends an attempt after which this generation serves on, and returns
// the last lines of the successor's output.
func (r *run) abandon() []string {
	a := r.attempt
	r.attempt, r.reportTick = nil, nil
	close(a.over)
	var lines []string
	if a.tail != nil {
		a.tail.Await()
		lines = a.tail.Lines()
	}
	if a.link != nil {
		a.link.Close()
	}
	a.process.Close()
	r.mu.Lock()
	if r.successor != nil {
		r.successor.process.Close()
	}
	r.successorLink, r.successor, r.future = nil, nil, nil
	r.mu.Unlock()
	if r.pidFile != nil {
		if err := r.pidFile.Restore(); err != nil {
			r.log.Error("PID file names a successor that is dead", "error", err)
		}
	}
	return lines
}

// endSuccessor ends one that has not done so by itself although the service stops.
func (r *run) endSuccessor() {
	r.impatience = nil
	r.flip.Stop()
	r.dismissReady("the service stops")
}

// abandonForStop ends an attempt because the service stops.
func (r *run) abandonForStop() {
	t := r.attempt.trigger
	r.abandon()
	r.refuse(&t)
	r.impatience = nil
	r.drainForStop()
}

// failed ends an attempt whose successor has failed.
func (r *run) failed(reason string) {
	a := r.attempt
	lines := r.abandon()
	r.log.Error("upgrade failed; this generation goes on serving", "by", a.by, "reason", reason, "stderr", strings.Join(lines, "\n"))
	r.record(Upgrade{Time: a.at, Trigger: a.by, From: r.number, To: r.number + 1, Result: Failed,
		Reason: withLastWords(reason, lines), Seconds: time.Since(a.at).Seconds(),
		FromVersion: r.opts.Version, ToVersion: a.next.Version})
	r.count(Failed)
	r.reply(a.waiters, control.Reply{Final: true, Outcome: encode(&Outcome{Result: Failed, Reason: reason, Stderr: lines,
		Generation: r.number, PID: r.introduction().PID, Version: r.opts.Version})})
	r.enter(Serving)
	r.startPending()
}

// withLastWords adds to a reason the most telling line of a successor's output: the last
// one, or the first of a crash of Go's runtime.
func withLastWords(reason string, lines []string) string {
	words := ""
	for _, line := range lines {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			words = line
			break
		}
		words = cmp.Or(strings.TrimSpace(line), words)
	}
	if words == "" {
		return reason
	}
	return reason + "; its last words: " + words
}

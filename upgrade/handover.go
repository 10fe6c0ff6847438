package upgrade

// This file holds an upgrade as the predecessor lives it: from the trigger to
// the successor that serves, or to the reason why none does.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	pastUpgrades = 10  // kept for the status
	reasonLength = 500 // bytes kept of a reason

	// settling is how long after its predecessor's end a generation waits before
	// it asks tableflip for an upgrade.
	settling = 50 * time.Millisecond
)

// attempt is an upgrade under way.
type attempt struct {
	trigger
	link     *link
	protocol int   // that both sides speak; 0: unknown
	next     hello // of the successor, once greeted
	tail     *tail
	ended    chan error    // what tableflip says
	over     chan struct{} // closed when it has failed
	begun    time.Time
	ready    time.Duration

	process process          // the successor, since it said hello
	late    <-chan time.Time // once accepted: when it must serve

	dismissed string      // why the successor was given up; empty: it was not
	exited    chan string // cap 1: gets the reason when one that was given up has exited
	returned  bool        // tableflip says no more

	accepted bool // tableflip has passed the point of no return
	greeted  bool // the successor said hello
	serving  bool // and that it serves
	gone     bool // the link has ended
	lost     bool // although the successor lives

	pipe   uint64 // see closeAllBut
	adopts bool   // connections can move there
}

// hangup is one SIGHUP for the whole line, as killall sends it to each generation.
type hangup struct {
	at      time.Time
	origins []int // generations that have got it
}

// isSame tells whether a signal that came to a generation is this one, and notes it.
// A second one to the same generation is another.
func (h *hangup) isSame(origin int) bool {
	same := origin != 0 && time.Since(h.at) < sameIntent && len(h.origins) > 0 && !slices.Contains(h.origins, origin)
	if !same {
		*h = hangup{at: time.Now()}
	}
	h.origins = append(h.origins, origin)
	return same
}

// askBySignal asks for an upgrade because a generation has got a signal.
func (r *run) askBySignal(origin int) {
	if r.hangup.isSame(origin) {
		r.log.Info("upgrade was asked for already", "by", bySignal, "origin", origin)
		return
	}
	r.ask(trigger{by: bySignal, signal: true, origin: origin})
}

// ask is where every trigger comes in.
func (r *run) ask(t trigger) {
	t.at = time.Now()
	switch {
	case r.handedOver:
		r.passOn(t)
	case r.stopping:
		r.refuse(&t)
	case r.pending == nil:
		r.pending = &t
		r.goOn()
	default:
		r.pending.waiters = append(r.pending.waiters, t.waiters...)
		r.pending.signal = r.pending.signal || t.signal
		r.log.Info("upgrade asked for again; joins the one that waits", "by", t.by)
	}
}

// goOn begins the upgrade that waits, if it need not wait any longer.
func (r *run) goOn() {
	t := r.pending
	if t == nil {
		return
	}
	wait := ""
	switch {
	case r.State() == Starting:
		wait = "this generation is not ready yet"
	case r.State() == Upgrading:
		wait = "an upgrade is under way"
	case r.gate != nil:
		wait = "the predecessor still drains"
	case r.Predecessors() > max(r.opts.MaxDraining, 0):
		wait = fmt.Sprintf("%d predecessors still drain", r.Predecessors())
	}
	if wait != "" {
		r.log.Info("upgrade waits", "by", t.by, "reason", wait)
		r.tell(t.waiters, reply{Progress: "waits: " + wait})
		return
	}
	r.pending = nil
	r.begin(*t)
}

// begin executes the successor.
func (r *run) begin(t trigger) {
	r.enter(Upgrading)
	a := &attempt{trigger: t, ended: make(chan error, 1), over: make(chan struct{}), begun: time.Now()}
	r.attempt = a
	r.log.Info("upgrade begins", "by", t.by)
	r.tell(t.waiters, reply{Progress: fmt.Sprintf("generation %d starts", r.number+1)})
	if err := r.prepare(a); err != nil {
		a.ended <- err
		return
	}
	go func() {
		// tableflip says that the predecessor is gone a moment before it knows.
		time.Sleep(time.Until(r.opened.Add(settling)))
		a.ended <- r.tf.Upgrade()
	}()
}

// prepare makes what the successor gets beside the sockets.
func (r *run) prepare(a *attempt) error {
	select {
	case <-r.tf.Exit():
		return errors.New("this generation has handed over once, to a successor that died, and cannot do so again; restart the service")
	default:
	}
	if dir := leaveLostDirectory(); dir != "" {
		r.log.Warn("working directory is gone; relative paths lead nowhere", "directory", dir)
	}
	l, theirs, err := newLink()
	if err != nil {
		return err
	}
	defer theirs.Close()
	h := r.introduction()
	if a.signal {
		h.Origins = r.hangup.origins
	}
	h.Trigger, h.Asked, h.Begun, h.Deadline = a.by, a.at, a.begun, a.begun.Add(r.opts.UpgradeTimeout)
	h.Drain = max(r.opts.DrainTimeout+r.exitTime(), r.PredecessorDrain()) // those may come to be waited for
	for _, c := range r.claims {
		h.Claims = append(h.Claims, c)
	}
	if r.pidFile != nil {
		h.PIDFile = r.pidFile.path
	}
	h.Counts = r.currentReport(l).Counts
	if k, ok := r.service.(SecretKeeper); ok {
		h.Secret = k.Secret()
	}
	r.mu.Lock()
	h.Upgrades = r.upgrades
	r.mu.Unlock()
	if err = l.send(message{Type: msgHello, Hello: &h}); err == nil {
		err = r.tf.AddFile(fileLink, theirs)
	}
	if err == nil {
		a.tail, err = r.stderr.capture(r.opts.Output)
	}
	if err != nil {
		l.close()
		return fmt.Errorf("prepare the successor: %w", err)
	}
	r.mu.Lock()
	r.ahead = l
	r.mu.Unlock()
	a.link = l
	l.follow(r.heard, a.over, r.exchange(l, false))
	return nil
}

// upgradeEnded takes tableflip's word on the attempt.
func (r *run) upgradeEnded(err error) {
	a := r.attempt
	a.returned = true
	r.stderr.release()
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
	if a.process.ended() {
		return
	}
	a.exited = make(chan string, 1)
	process, exited := a.process, a.exited
	go func() {
		if grace > 0 && process.endsWithin(grace) {
			exited <- "successor died as it became ready"
			return
		}
		if err := process.kill(); err != nil {
			r.log.Error("successor cannot be killed", "successor_pid", process.pid, "error", err)
		}
		if !process.endsWithin(linkEnds) {
			r.log.Warn("successor was killed and has not exited yet; waits for that", "successor_pid", process.pid)
		}
		if process.awaitEnd(r.done) {
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

// successorIsLate gives up a successor that said ready but does not serve in time;
// tableflip does so only before that.
func (r *run) successorIsLate() {
	r.attempt.late = nil
	r.dismissReady(fmt.Sprintf("successor said that it is ready but did not serve within %s and was killed", r.opts.UpgradeTimeout))
}

// dismissReady gives up a successor that said ready. One that has never sent a message
// cannot be killed, since its pid is not known: then tableflip's word has to do.
func (r *run) dismissReady(reason string) {
	switch a := r.attempt; {
	case a == nil || !a.accepted || r.handedOver:
	case a.process.known():
		r.dismiss(reason, 0)
	default:
		r.log.Warn("successor said that it is ready, and nothing else; it is taken to serve")
		r.handOver()
	}
}

// hearSuccessor takes what came over the link to the successor.
func (r *run) hearSuccessor(h *heard) {
	a := r.attempt
	m := &h.message
	switch {
	case h.exited:
		r.successorExited()
	case h.lost:
		a.lost = true
		r.log.Warn("the link to the generation that serves is lost")
	case h.end:
		a.gone = true
		if a.greeted && !a.serving && !a.accepted {
			r.dismiss("link to the successor broke before that was ready; it was killed", 0)
		}
		r.watchSuccessor()
	case m.Type == msgHello && m.Hello != nil && a.greeted:
		if r.handedOver {
			r.log.Info("another generation serves by now", "successor_pid", m.Hello.PID, "successor_version", m.Hello.Version)
		}
	case m.Type == msgHello && m.Hello != nil:
		a.greeted = true
		a.next, a.protocol = *m.Hello, min(m.Hello.Protocol, linkProtocol())
		a.process = openProcess(m.sender)
		next := m.Hello
		r.reportTick = time.Tick(reportInterval)
		r.reportToSuccessor()
		r.log.Info("successor started", "successor_pid", next.PID, "successor_version", next.Version)
		r.tell(a.waiters, reply{Progress: fmt.Sprintf("generation %d (pid %d, version %s) starts", r.number+1, next.PID, next.Version)})
	case m.Type == msgServing && a.greeted && !a.serving:
		a.serving, a.ready = true, time.Since(a.at)
		a.pipe, a.adopts = m.Pipe, m.Adopts
		r.keep(m.Claims)
	}
	r.commit()
}

// watchSuccessor finds out why the link to a successor that serves has ended, unless
// it stops.
func (r *run) watchSuccessor() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if after := r.after; r.handedOver && after != nil && after.state < Draining && after.process.known() {
		r.watchEnd(after.link, after.process)
	}
}

// successorExited takes the end of a successor after that of its link. If the link was
// lost before, it may have stopped, or handed over.
func (r *run) successorExited() {
	if r.attempt.lost {
		return
	}
	r.log.Error("successor died after it had taken over; nobody accepts connections now")
	for _, o := range r.observers {
		o.Orphaned()
	}
}

// commit hands over once the successor serves. Until then this generation
// accepts as well, so that one that dies as it becomes ready costs nothing.
func (r *run) commit() {
	a := r.attempt
	switch {
	case a == nil || !a.accepted || r.handedOver || a.dismissed != "":
	case a.serving, a.gone && !a.greeted: // the latter is a release that has no link
		r.handOver()
	case a.gone:
		r.dismiss("link to the successor broke as that became ready; it was killed", linkEnds/2)
		r.concludeDismissal()
	}
}

// keep notes which listeners the successor has.
func (r *run) keep(claims []claim) {
	bound := make(map[string]bool)
	for _, c := range claims {
		bound[c.Bound] = true
	}
	r.kept = func(ln net.Listener) bool { return bound[r.claims[ln].Bound] }
}

// handOver begins the drain: the successor serves.
func (r *run) handOver() {
	a := r.attempt
	r.handedOver = true
	if !a.serving { // it has no link to say what it claimed
		a.ready = time.Since(a.at)
		r.count(Succeeded)
		r.kept = func(net.Listener) bool { return true }
	}
	r.mu.Lock()
	if r.after != nil {
		r.after.state = max(r.after.state, Serving) // it may have said already that it stops
	}
	r.mu.Unlock()
	r.record(Upgrade{Time: a.at, Trigger: a.by, From: r.number, To: r.number + 1, Result: Succeeded, Seconds: a.ready.Seconds(),
		FromVersion: r.opts.Version, ToVersion: a.next.Version})
	r.log.Info("upgrade succeeded", "took", a.ready.Round(time.Millisecond).String())
	r.control.stop()
	if r.pidFile != nil {
		r.pidFile.handOver()
	}
	if r.stopping { // it was ready before it heard of that; it will
		r.stopping, r.delay, r.impatience = false, nil, nil
	} else {
		r.enter(Draining)
	}
	if t := r.pending; t != nil {
		r.pending = nil
		r.passOn(*t)
	}
	r.passPredecessors()
	if a.protocol >= 2 && a.pipe != 0 {
		if err := closeAllBut(-1, a.pipe); err != nil {
			r.log.Warn("successor cannot be upgraded before this generation's end", "error", err)
		}
	}
	h := Handoff{Kept: r.kept}
	if a.protocol >= 2 && a.adopts {
		h.Move = func(ctx context.Context, conns []Connection) []bool { return r.move(ctx, a.link, conns) }
	}
	r.drain(h)
	r.reportToSuccessor()
	if a.gone {
		r.watchSuccessor()
	}
}

// passOn gives a trigger to the successor.
func (r *run) passOn(t trigger) {
	for _, w := range t.waiters {
		w.forward <- r.attempt.link
	}
	if t.signal {
		if err := r.attempt.link.send(message{Type: msgUpgrade, Origin: t.origin}); err != nil {
			r.log.Error("successor could not be asked for an upgrade", "error", err)
		}
	}
}

// reportInterval bounds what is lost with a generation that is killed once it
// has a successor.
const reportInterval = 200 * time.Millisecond

// reportToSuccessor tells the successor what this generation has counted, and
// who waits what the drain waits for.
func (r *run) reportToSuccessor() {
	a := r.attempt
	if !a.gone {
		r.report(a.link, message{Type: msgReport}, 0)
	}
	if !r.handedOver {
		return
	}
	load := r.service.Load()
	outcome := r.succeeded(nil)
	outcome.Predecessor.Load = &load
	r.tell(a.waiters, reply{Outcome: outcome, Progress: outcome.String()})
}

// succeeded tells of the upgrade. d is nil while this generation drains.
func (r *run) succeeded(d *Drained) *Outcome {
	o := &Outcome{
		Result: Succeeded, Generation: r.number + 1, ReadySeconds: r.attempt.ready.Seconds(),
		Predecessor: &Predecessor{Generation: r.number, PID: r.introduction().PID},
	}
	o.PID, o.Version = r.attempt.next.PID, r.attempt.next.Version
	if d != nil {
		o.Predecessor.IsDrained, o.Predecessor.Drained = true, *d
	}
	return o
}

// abandon ends an attempt after which this generation serves on, and returns
// the last lines of the successor's output.
func (r *run) abandon() []string {
	a := r.attempt
	r.attempt, r.reportTick = nil, nil
	close(a.over)
	var lines []string
	if a.tail != nil {
		a.tail.await()
		lines = a.tail.last()
	}
	if a.link != nil {
		a.link.close()
	}
	a.process.close()
	r.mu.Lock()
	if r.after != nil {
		r.after.process.close()
	}
	r.ahead, r.after, r.future = nil, nil, nil
	r.mu.Unlock()
	if r.pidFile != nil {
		if err := r.pidFile.restore(); err != nil {
			r.log.Error("PID file names a successor that is dead", "error", err)
		}
	}
	// tableflip lets go of the link of the attempt before this one when it gets
	// the next, and that is closed only when it is collected.
	runtime.GC()
	return lines
}

// endSuccessor ends one that has not done so by itself although the service stops.
func (r *run) endSuccessor() {
	r.impatience = nil
	r.tf.Stop()
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

// failed ends an attempt whose successor was no good.
func (r *run) failed(reason string) {
	a := r.attempt
	lines := r.abandon()
	r.log.Error("upgrade failed; this generation goes on serving", "by", a.by, "reason", reason, "stderr", strings.Join(lines, "\n"))
	r.record(Upgrade{Time: a.at, Trigger: a.by, From: r.number, To: r.number + 1, Result: Failed,
		Reason: withLastWords(reason, lines), Seconds: time.Since(a.at).Seconds(),
		FromVersion: r.opts.Version, ToVersion: a.next.Version})
	r.count(Failed)
	r.tell(a.waiters, reply{Final: true, Outcome: &Outcome{Result: Failed, Reason: reason, Stderr: lines,
		Generation: r.number, PID: r.introduction().PID, Version: r.opts.Version}})
	r.enter(Serving)
	r.goOn()
}

// withLastWords adds to a reason the line of a successor's output that says most: the
// last one, or where Go begins to tell of a crash.
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

// refuse ends a trigger that comes too late.
func (r *run) refuse(t *trigger) {
	o := refusal()
	r.log.Warn("upgrade refused", "by", t.by, "reason", o.Reason)
	r.record(Upgrade{Time: t.at, Trigger: t.by, From: r.number, To: r.number + 1, Result: Refused, Reason: o.Reason,
		FromVersion: r.opts.Version})
	r.count(Refused)
	r.tell(t.waiters, reply{Final: true, Outcome: o})
}

// record keeps an upgrade for the status.
func (r *run) record(u Upgrade) {
	if len(u.Reason) > reasonLength {
		u.Reason = strings.ToValidUTF8(u.Reason[:reasonLength], "")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upgrades = append(r.upgrades, u)
	if n := len(r.upgrades); n > pastUpgrades {
		r.upgrades = r.upgrades[n-pastUpgrades:]
	}
}

// count counts an upgrade, in one of the two generations that record it.
func (r *run) count(result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[result]++
}

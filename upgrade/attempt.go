package upgrade

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.com/baton/upgrade/internal/descriptors"
	"example.com/baton/upgrade/internal/flip"
	"example.com/baton/upgrade/internal/judge"
	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
	"example.com/baton/upgrade/internal/process"
)

// attempt is what this process has of an upgrade under way, and gives up with it. The machine knows its state.
type attempt struct {
	link       *link.Link    // nil if it could not be made
	theirs     uint64        // inode of its other end, as long as tableflip has a copy
	over       chan struct{} // closed when it has failed
	tail       *flip.Tail
	next       link.Hello      // of the successor; zero before it has come
	process    process.Process // the successor, since its hello
	claims     []link.Claim    // of the successor, once it serves
	pipe       uint64          // see flip.Process.ReleasePipe
	began      Outcomes        // of this generation, when it was executed
	resources  judge.Resources // of this generation, at most, while it is tried; guarded by the lock of the generation
	comparison *comparison     // in the present stage, or the last one
	adopts     bool            // connections can migrate there
	assumed    bool            // it cannot report its claims, and is taken to have all
}

// protocol returns the version of the link that both sides speak; 0: unknown.
func (a *attempt) protocol() int { return min(a.next.Protocol, link.Version()) }

// has reports whether the successor has a listener.
func (a *attempt) has(c claim) bool {
	return a.assumed || slices.ContainsFunc(a.claims, func(theirs link.Claim) bool { return theirs.Bound == c.Bound })
}

// execute executes the successor.
func (r *run) execute(a lifecycle.Action) {
	r.attempt = &attempt{over: make(chan struct{}), began: r.outcomes()}
	if err := r.equip(r.attempt, a.Trigger); err != nil {
		r.enqueue(lifecycle.Event{Kind: lifecycle.FlipFailed, Err: err})
		return
	}
	go func() {
		err := r.flip.Upgrade()
		r.flip.Stderr.Release()
		if err != nil {
			r.post(lifecycle.Event{Kind: lifecycle.FlipFailed, Err: err})
			return
		}
		r.post(lifecycle.Event{Kind: lifecycle.FlipAccepted})
	}()
}

// equip makes what the successor gets in addition to the listeners.
func (r *run) equip(a *attempt, t lifecycle.Trigger) error {
	select {
	case <-r.flip.Exit():
		return errors.New("a successor of this generation was ready and died, and there cannot be another; restart the service")
	default:
	}
	if dir := r.flip.LeaveLostDirectory(); dir != "" {
		r.log.Warn("working directory no longer exists; relative paths fail", "directory", dir)
	}
	l, theirs, err := link.New()
	if err != nil {
		return err
	}
	defer theirs.Close()
	h := r.hello(l, t)
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
	a.link, a.theirs = l, descriptors.Inode(descriptors.Number(theirs))
	l.Follow(r.events, a.over, r.exchange(l, false))
	return nil
}

// hello returns what the successor must know from the beginning.
func (r *run) hello(l *link.Link, t lifecycle.Trigger) link.Hello {
	now := r.own()
	h := r.introduction()
	begun := time.Now()
	h.Trigger, h.Origins, h.Asked, h.Begun, h.Deadline = t.By, t.Origins, t.At, begun, begun.Add(r.opts.UpgradeTimeout)
	h.Drain = max(r.opts.DrainTimeout+r.exitTime(), r.PredecessorDrain()) // those may come to be waited for
	h.Claims = r.wireClaims()
	if r.pidFile != nil {
		h.PIDFile = r.pidFile.Path()
	}
	h.Counts = r.currentReport(l, now).Counts
	if k, ok := r.service.(SecretKeeper); ok {
		h.Secret = k.Secret()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.upgrades) > 0 {
		h.Upgrades = encode(r.upgrades)
	}
	return h
}

// handleSuccessor handles what came over the link to the successor.
func (r *run) handleSuccessor(a *attempt, e *link.Event) {
	switch m := &e.Message; {
	case e.Kind == link.Exited:
		r.enqueue(lifecycle.Event{Kind: lifecycle.SuccessorExited, Younger: r.isYoungerAlive()})
	case e.Kind == link.Lost:
		r.enqueue(lifecycle.Event{Kind: lifecycle.SuccessorLost})
	case e.Kind == link.Ended:
		r.enqueue(lifecycle.Event{Kind: r.linkEnd()})
	case m.Type == link.TypeHello && m.Hello != nil:
		if !a.process.Known() {
			a.next, a.process = *m.Hello, process.Open(m.Sender())
		}
		r.enqueue(lifecycle.Event{Kind: lifecycle.Hello, PID: m.Hello.PID, Version: m.Hello.Version, Protocol: a.protocol()})
	case m.Type == link.TypeReport && m.Report != nil:
		if kind, ok := reportEvents[m.Report.State]; ok {
			r.enqueue(lifecycle.Event{Kind: kind})
		}
	case m.Type == link.TypePrepared:
		a.claims, a.pipe, a.adopts = m.Claims, m.Pipe, m.Adopts
		r.enqueue(lifecycle.Event{Kind: lifecycle.SuccessorPrepared})
	case m.Type == link.TypeServing:
		a.claims, a.pipe, a.adopts = m.Claims, m.Pipe, m.Adopts
		r.enqueue(lifecycle.Event{Kind: lifecycle.SuccessorServes})
	case m.Type == link.TypeReturning:
		r.enqueue(lifecycle.Event{Kind: lifecycle.SuccessorReturns, Text: m.Reason})
	}
}

// reportEvents has what a change of the successor's state means.
var reportEvents = map[string]lifecycle.Kind{
	Serving.String():   lifecycle.SuccessorSettles,
	Upgrading.String(): lifecycle.SuccessorUpgrades,
	Draining.String():  lifecycle.SuccessorDrains,
}

// isYoungerAlive reports whether the generation that was executed here lives, and has handed over to
// another one.
func (r *run) isYoungerAlive() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.successor
	return s != nil && s.process.PID() != r.attempt.process.PID() && !r.attempt.process.Ended()
}

// linkEnd returns what the end of the link to the successor means.
func (r *run) linkEnd() lifecycle.Kind {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.successor; s == nil || s.state >= Draining || !s.process.Known() {
		return lifecycle.SuccessorLinkClosed
	}
	return lifecycle.SuccessorLinkEnded
}

// watchSuccessor finds out why the link to a successor that serves has ended.
func (r *run) watchSuccessor() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.successor.link.FollowPeer(r.successor.process, r.events, r.done)
}

func (r *run) orphaned() {
	for _, o := range r.observers {
		o.Orphaned()
	}
}

// sendStop notifies the successor of a stop.
func (r *run) sendStop() {
	if l := r.attempt.link; l != nil {
		l.Send(link.Message{Type: link.TypeStop})
	}
}

// dismiss kills the successor after a grace, whatever has become of the link to it, and
// awaits its exit.
func (r *run) dismiss(a lifecycle.Action) {
	successor := r.attempt.process
	if successor.Ended() {
		r.enqueue(lifecycle.Event{Kind: lifecycle.SuccessorExited, InGrace: a.Duration > 0})
		return
	}
	go func() {
		if a.Duration > 0 && successor.EndsWithin(a.Duration) {
			r.post(lifecycle.Event{Kind: lifecycle.SuccessorExited, InGrace: true})
			return
		}
		if err := successor.Kill(); err != nil {
			r.log.Error("successor cannot be killed", "successor_pid", successor.PID(), "error", err)
		}
		if !successor.EndsWithin(link.PeerExit) {
			r.log.Warn("successor was killed and has not exited yet; waiting for it", "successor_pid", successor.PID())
		}
		if successor.AwaitEnd(r.done) {
			r.post(lifecycle.Event{Kind: lifecycle.SuccessorExited})
		}
	}()
}

// abandon forgets an attempt, and returns the last lines of the successor's output.
func (r *run) abandon() []string {
	a := r.attempt
	r.attempt = nil
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

// isRoutine reports whether a line is one of the log of what goes well, such as that of requests:
// in a trial the output has many.
func isRoutine(line string) bool {
	return strings.Contains(line, "level=INFO") || strings.Contains(line, `"level":"INFO"`) || strings.HasPrefix(line, "<6>")
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
		if !isRoutine(line) {
			words = cmp.Or(strings.TrimSpace(line), words)
		}
	}
	if words == "" {
		return reason
	}
	return reason + "; its last output: " + words
}

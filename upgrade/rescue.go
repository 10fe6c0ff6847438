package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/control"
	"example.com/baton/upgrade/internal/descriptors"
	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
	"golang.org/x/sys/unix"
)

// inheritance is what a process gets that is executed in place of a successor which has died.
// Both are of the same release.
type inheritance struct {
	Generation int          `json:"generation"`
	Claims     []link.Claim `json:"claims"` // of the descriptors from firstInherited on
	Upgrades   []Upgrade    `json:"upgrades"`
	Counts     Counts       `json:"counts"` // of all generations so far
}

const firstInherited = 3

// held is a duplicate of a listener.
type held struct {
	claim link.Claim
	fd    int
}

// holdListeners keeps the listeners from which the successor accepts.
func (r *run) holdListeners() {
	for ln, c := range r.claims {
		if ln == r.controlListener || !r.attempt.has(c) {
			continue
		}
		fd, err := descriptors.Duplicate(ln)
		if err != nil {
			r.log.Warn("this generation cannot take over again if its successor dies", "address", c.Bound, "error", err)
			r.releaseListeners()
			return
		}
		r.reserve = append(r.reserve, held{c.Claim, fd})
	}
}

func (r *run) releaseListeners() {
	for _, h := range r.reserve {
		unix.Close(h.fd)
	}
	r.reserve = nil
}

// rescue executes this program again, with the listeners of the successor that has died.
func (r *run) rescue(a lifecycle.Action) {
	number, t := r.number+2, a.Trigger
	r.record(Upgrade{Time: t.At, Trigger: t.By, From: r.number, To: r.number + 1, Result: Failed, Reason: r.death(),
		Seconds: time.Since(t.At).Seconds(), FromVersion: r.opts.Version, ToVersion: r.attempt.next.Version})
	r.unstoreTheirs()
	pid, err := r.executeAgain(number)
	r.releaseListeners()
	if err != nil {
		r.enqueue(lifecycle.Event{Kind: lifecycle.RescueFailed, Err: err})
		return
	}
	r.rescuer = pid
	r.log.Info("executed this program again", "executed_pid", pid, "executed_generation", number)
	go func() { // ends with that process
		if err := awaitSuccess(pid); err != nil {
			r.post(lifecycle.Event{Kind: lifecycle.RescueFailed, Err: fmt.Errorf("generation %d: %w", number, err)})
		}
	}()
}

func (r *run) executeAgain(number int) (pid int, err error) {
	if len(r.reserve) == 0 {
		return 0, errors.New("execute this program again: there are no listeners for it")
	}
	own := inheritance{Generation: number, Counts: r.currentReport(nil, r.own()).Counts}
	r.mu.Lock()
	own.Upgrades = slices.Clone(r.upgrades)
	r.mu.Unlock()
	var fds []int
	for _, h := range r.reserve {
		own.Claims, fds = append(own.Claims, h.claim), append(fds, h.fd)
	}
	if dir := r.flip.LeaveLostDirectory(); dir != "" {
		r.log.Warn("working directory no longer exists; relative paths fail", "directory", dir)
	}
	<-r.flip.Exit() // the copies of the PID file's lock and of the control socket are closed
	return r.flip.Again(fds, string(encode(own)))
}

// awaitSuccess awaits the end of a child, and fails if that is one that nobody wanted.
func awaitSuccess(pid int) error {
	var status syscall.WaitStatus
	_, err := syscall.Wait4(pid, &status, 0, nil)
	for errors.Is(err, syscall.EINTR) {
		_, err = syscall.Wait4(pid, &status, 0, nil)
	}
	switch {
	case err != nil:
		return os.NewSyscallError("wait4", err)
	case status.Signaled():
		return fmt.Errorf("signal: %v", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return nil
}

func (r *run) death() string {
	return fmt.Sprintf("generation %d died after it had taken over; its log has the cause", r.number+1)
}

// revoke notifies clients that the successor, although it had taken over, is dead.
func (r *run) revoke(a lifecycle.Action) {
	o := &Outcome{Result: Failed, Reason: r.death()}
	if r.rescuer != 0 {
		o.Reason += fmt.Sprintf("; generation %d takes over, with the program of generation %d", r.number+2, r.number)
		o.Generation, o.PID, o.Version = r.number+2, r.rescuer, r.opts.Version
	}
	reply(a.Trigger.Waiters, control.Reply{Final: true, Outcome: encode(o)})
}

// takeInherited takes the listeners of a generation that has died, if its predecessor has executed
// this process in its place. They are like those that a store has.
func (g *Generation) takeInherited() error {
	text := g.flip.Inherited()
	if text == "" {
		return nil
	}
	var own inheritance
	if err := json.Unmarshal([]byte(text), &own); err != nil {
		return fmt.Errorf("take the listeners of a generation that has died: %w", err)
	}
	g.number, g.upgrades = own.Generation, own.Upgrades
	g.bury(own.Counts)
	for i, c := range own.Claims {
		f := os.NewFile(uintptr(firstInherited+i), c.Bound)
		ln, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("take listener %s of a generation that has died: %w", c.Bound, err)
		}
		g.offered = append(g.offered, claim{Claim: c, listener: ln})
	}
	return nil
}

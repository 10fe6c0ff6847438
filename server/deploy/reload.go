package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
	"unicode"

	"example.com/baton/upgrade"
)

// A job of systemd is a reload or a restart of a unit.
type job struct {
	unit   string
	cmd    *exec.Cmd
	output bytes.Buffer
	cursor string // where the journal ended before
	done   chan error
}

// begin begins a job. It goes on in systemd whether anybody waits for it or not.
func begin(verb, unit string) *job {
	j := &job{unit: unit, cmd: exec.Command("systemctl", verb, unit), done: make(chan error, 1)}
	if verb == "restart" {
		exec.Command("systemctl", "reset-failed", unit).Run()
	}
	shown, _ := exec.Command("journalctl", "-q", "-u", unit, "-n", "0", "--show-cursor").Output()
	_, cursor, _ := strings.Cut(string(shown), "-- cursor: ")
	j.cursor = strings.TrimSpace(cursor)
	j.cmd.Stdout, j.cmd.Stderr = &j.output, &j.output
	j.cmd.WaitDelay = time.Second
	go func() { j.done <- j.cmd.Run() }()
	return j
}

// beginWith begins an upgrade with a trial or a watch of its own, which systemd cannot pass on.
func (st step) beginWith() *job {
	j := &job{unit: st.Unit, done: make(chan error, 1)}
	var o upgrade.Outcome
	done := request(st.WasPID, func(path string) (err error) {
		o, err = upgrade.Ask(context.Background(), path, st.Overrides, nil)
		return err
	})
	go func() {
		err := <-done
		if err == nil && o.Result != upgrade.Succeeded {
			err = errors.New(o.String())
		}
		if err != nil {
			j.output.WriteString(err.Error())
		}
		j.done <- err
	}()
	return j
}

// vote has the predecessor take back what does not stand the vote. Should that not reach it, the health
// check after the commit will tell.
func (st step) vote(s serving) {
	if bad := st.Vote(s); bad != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		<-request(s.Unit.PID, func(path string) error { return upgrade.Abort(ctx, path, "it is not healthy: "+bad.Error()) })
	}
}

// said returns what the commands of the unit said about the job, which goes to the journal, once it is done.
func (j *job) said() string {
	var said []byte
	if j.cursor != "" {
		exec.Command("journalctl", "--sync").Run()
		said, _ = exec.Command("journalctl", "-q", "-u", j.unit, "-o", "cat", "--after-cursor", j.cursor).Output()
	}
	output := j.output.String()
	if said := about(string(said) + "\n" + output); said != "" {
		return said
	}
	return strings.TrimSpace(output)
}

// isAbout matches the lines that the upgrade command prints: its outcome and the last lines of a
// successor.
var isAbout = regexp.MustCompile(`^(baton: |  \| |generation [0-9]* \(pid )`)

// about returns the first lines of a log that are about an upgrade.
func about(log string) string {
	var lines []string
	for line := range strings.Lines(log) {
		line = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) && r != '\t' {
				return -1
			}
			return r
		}, line)
		if isAbout.MatchString(line) && len(lines) < 30 {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

var goesOn = regexp.MustCompile(`(?m)^generation .* goes on serving$\n?`)

// A step is a change of what serves to the file in place.
type step struct {
	Unit  string
	File  string
	Start bool // the service is not alive: start it, in place of a reload

	// Overrides are of the trial and the watch in this upgrade.
	Overrides upgrade.Overrides
	// Vote is asked when the new release accepts and its predecessor can still take back: an error
	// has it do so. Nil: nobody.
	Vote func(serving) error

	// What serves afterwards, as far as it is known.
	Name    string
	Version string
	WasPID  int
}

// Do reloads or starts the service, and returns as soon as the file serves: the predecessor may drain still.
func (st step) Do(shown progress) (s serving, err error) {
	verb, noun := "reload", "reload"
	if st.Start {
		verb, noun = "restart", "start"
	}
	var j *job
	if st.Start || st.Overrides == (upgrade.Overrides{}) {
		j = begin(verb, st.Unit)
	} else {
		j = st.beginWith()
	}
	voted := st.Vote == nil
	for {
		// What serves before the end of a restart is about to be stopped by it.
		if s, err = look(st.Unit, st.File); err == nil && s.Unit.PID != st.WasPID && !st.Start {
			break
		}
		shown.show(s)
		if t := s.Status.Trial; !voted && t != nil && t.Stage == upgrade.StageWatch {
			voted = true
			st.vote(s)
		}
		select {
		case err = <-j.done:
		case <-time.After(100 * time.Millisecond):
			continue
		}
		if err != nil {
			if s, lookErr := look(st.Unit, st.File); lookErr == nil && s.Unit.PID != st.WasPID {
				break // the job failed of something else, as of a predecessor that died
			}
			return s, fmt.Errorf("%s of %s failed:\n%s", noun, st.Unit, strings.TrimSpace(goesOn.ReplaceAllString(j.said(), "")))
		}
		s, err = awaitServing(st.Unit, st.File, 5*time.Second, shown)
		break
	}
	switch {
	case err != nil:
		return s, fmt.Errorf("%s does not serve: %w", st.Name, err)
	case s.Unit.PID == st.WasPID:
		return s, fmt.Errorf("%s did not upgrade: pid %d serves still", st.Unit, st.WasPID)
	case st.Version != "" && s.Status.Version != st.Version:
		return s, fmt.Errorf("%s serves, not %s", s.Status.Version, st.Version)
	}
	return s, nil
}

// Bounds of the way back: to a service that served, and to one that was down or in a loop of restarts.
const (
	backLimit   = 90 * time.Second
	brokenLimit = 10 * time.Second
)

// Back sees to it that the file, which was put back, serves, whatever goes on: another generation that
// serves, drains or is started, a loop of restarts, or a service that went down, unless it was down before.
// It asks on the control socket, because systemd would wait for a drain first. It returns how often it
// asked for an upgrade or a start.
func (st step) Back(shown progress) (s serving, tries int, err error) {
	const most = 3
	limit := backLimit
	if st.Start {
		limit = brokenLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var asked chan error // nil: nothing is asked for
	restarting := false  // and that is a restart, which stops what serves before its end
	for {
		s, err = look(st.Unit, st.File)
		trying := s.Status.State == upgrade.Upgrading.String()
		if asked == nil {
			restarting = false
		}
		if err == nil && !trying && !restarting || ctx.Err() != nil || tries == most && asked == nil && (s.Unit.isDown() || errors.Is(err, errNotInPlace)) {
			return s, tries, err
		}
		shown.show(s)
		switch {
		case asked != nil:
		case trying && s.Status.Trial != nil && s.Status.Trial.Stage != "":
			asked = request(s.Unit.PID, func(path string) error { return upgrade.Abort(ctx, path, "the release before is wanted back") })
		case trying && killOther(s.Status, st.File):
		case s.Unit.isDown() && st.Start:
			return s, tries, err
		case s.Unit.isDown():
			tries, asked, restarting = tries+1, begin("restart", st.Unit).done, true
		case errors.Is(err, errNotInPlace) && s.Status.State == upgrade.Serving.String():
			tries, asked = tries+1, requestUpgrade(ctx, s.Unit.PID)
		}
		select {
		case <-asked:
			asked = nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// requestUpgrade asks the main process for an upgrade, without a trial: what is gone back to has served.
func requestUpgrade(ctx context.Context, pid int) chan error {
	return request(pid, func(path string) error {
		var share float64
		var watch time.Duration
		_, err := upgrade.Ask(ctx, path, upgrade.Overrides{Share: &share, Watch: &watch}, nil)
		if errors.Is(err, upgrade.ErrRefused) { // by a release that knows no trials
			_, err = upgrade.Ask(ctx, path, upgrade.Overrides{}, nil)
		}
		return err
	})
}

// request does something on the control socket of a process.
func request(pid int, do func(path string) error) chan error {
	done := make(chan error, 1)
	go func() {
		p := readProcess(pid)
		if p == nil {
			done <- fmt.Errorf("pid %d has ended", pid)
			return
		}
		done <- p.control(do)
	}()
	return done
}

// Drained waits for the predecessors of what serves, and returns how they drained. It fails if what
// serves dies meanwhile.
func (st step) Drained(generation int, shown progress) (drain string, err error) {
	seen := time.Now()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		s, err := look(st.Unit, st.File)
		switch died := s.Unit.PID == 0 || s.Status.Generation > 0 && s.Status.Generation < generation; {
		case died || err != nil && time.Since(seen) > 5*time.Second:
			if err == nil {
				err = fmt.Errorf("it has died, and was started again as generation %d", s.Status.Generation)
			}
			return "", err
		case err != nil:
			continue
		}
		seen = time.Now()
		if drain = drainedBy(s.Status, generation); drain != "" || time.Since(began) > 5*time.Minute {
			return drain, nil
		}
		shown.show(s)
	}
}

// drainedBy returns how the predecessor of a generation drained; "" if it drains still.
func drainedBy(s upgrade.Status, generation int) string {
	for _, m := range s.Generations {
		if m.State == upgrade.Draining.String() && m.Generation < s.Generation {
			return ""
		}
	}
	drain := "nothing drains"
	for _, u := range s.Upgrades {
		if u.To == generation && u.Result == upgrade.Succeeded && u.Drained != nil {
			o := upgrade.Outcome{Result: u.Result, Predecessor: &upgrade.Predecessor{Generation: u.From, IsDrained: true, Drained: *u.Drained}}
			_, drain, _ = strings.Cut(o.String(), "; ")
		}
	}
	return drain
}

package deploy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"example.com/baton/systemd"
	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

// questions is the version of the questions that are understood: the script asks no release that has
// another one. It is a variable for the linker, with which tests build a release of the past.
var questions = "2"

// Asks reports whether a command line is a question of the deploy script.
func Asks(args []string) bool {
	if len(args) < 2 {
		return false
	}
	switch args[0] + " " + args[1] {
	case "status -shell", "check -binary", "check -health", "upgrade -serves", "upgrade -back", "upgrade -drained", "upgrade -settle", "upgrade -end", "upgrade -crashed":
		return true
	}
	return false
}

// Answer answers a question of the deploy script with lines of KEY='VALUE' that are safe for a shell's
// eval. The first is answered= and [questions]; problem= says what is wrong, and exit code 1 that something is.
func Answer(w io.Writer, args []string) (code int) {
	// Nothing is done here any more if the script is killed: another may run soon.
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
	q, err := parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "baton: "+err.Error())
		return 2
	}
	if args[1] == "-crashed" {
		if err := afterCrash(os.Stderr, q.Unit, q.rest); err != nil {
			fmt.Fprintf(os.Stderr, "%sbaton: %s\n", systemd.Priority(slog.LevelError), strings.ReplaceAll(err.Error(), "\n", "; "))
			return 1
		}
		return 0
	}
	if len(q.rest) > 0 {
		fmt.Fprintf(os.Stderr, "baton: unexpected argument %q\n", q.rest[0])
		return 2
	}
	var a answer
	a.say("answered", questions)
	switch args[1] {
	case "-shell":
		err = a.describe(q)
	case "-binary":
		err = a.judge(q)
	case "-health":
		err = a.health(q)
	case "-serves", "-back":
		err = a.step(q, args[1] == "-back")
	case "-drained":
		err = a.drained(q)
	case "-end":
		var stood string
		stood, err = filesOf(q.File).endOther()
		a.say("stood", stood)
	case "-settle":
		err = a.settle(q)
	}
	if err != nil {
		a.say("problem", err)
		code = 1
	}
	a.WriteTo(w)
	return code
}

// An answer is the lines of one.
type answer struct{ bytes.Buffer }

func (a *answer) say(key string, value any) {
	fmt.Fprintf(a, "%s=%s\n", key, quote(fmt.Sprint(value)))
}

// isPlain matches what a shell reads as it is.
var isPlain = regexp.MustCompile(`^[A-Za-z0-9./:_-]*$`)

// quote returns text so that a shell reads it as one word and nothing else.
func quote(text string) string {
	text = strings.ReplaceAll(text, "\x00", "")
	if isPlain.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// yes says that something is so.
func (a *answer) yes(key string, is bool) {
	if is {
		a.say(key, "yes")
	} else {
		a.say(key, "")
	}
}

// settleTime bounds the moment in which a process that has died is replaced by another.
const settleTime = 10 * time.Second

// describe tells what runs, and which file a deploy would replace. Without a unit it says only that
// it understands the question.
func (a *answer) describe(q *question) error {
	if q.Unit == "" {
		return nil
	}
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		again := *a
		again.Buffer = *bytes.NewBuffer(bytes.Clone(a.Bytes()))
		pid, err := again.describeOnce(q)
		if err != nil && (errors.Is(err, errNoProcess) || pid != 0 && hasEnded(pid)) && time.Since(began) < settleTime {
			continue // it has just died
		}
		*a = again
		return err
	}
}

// describeOnce returns the main process that it has looked at, 0 for none.
func (a *answer) describeOnce(q *question) (pid int, err error) {
	limit := 300 * time.Second
	if q.now || q.rollback {
		limit = 0
	}
	u, waited, err := awaitUnit(q.Unit, limit, q.shown())
	if err != nil && (limit > 0 || waited != "" || u.Name == "") {
		return 0, err
	}
	a.say("waited", waited)
	if u.Job != "" && !u.isAlive() {
		u.Active = "activating" // between two starts
	}
	a.say("active", u.Active)
	p, err := u.running()
	if err != nil {
		return u.PID, err
	}
	a.yes("alive", p != nil)
	target, err := u.target(p)
	if err != nil {
		return u.PID, err
	}
	a.say("target", target)
	a.say("stands", fileKey(target))
	if c := readCrashes(target); q.rollback && c.Replaced != nil && c.Replaced.By == fileKey(target) {
		a.say("stood", fileKey(target)) // the way back was made already
	}
	a.say("directory", filepath.Dir(target))
	before := ""
	if previous := target + ".previous"; fileID(previous) != "" {
		if name := nameOf(p, previous); name != "" {
			before = "; before it: " + name
		}
	}
	if p == nil {
		name := nameOf(nil, target)
		a.yes("embedded", !isBaton(target))
		a.say("pid", 0)
		a.say("name", name)
		if q.now {
			return 0, fmt.Errorf("%s is %s; in place is %s%s", u.Name, u.Active, cmp.Or(name, "a binary that does not run"), before)
		}
		return 0, nil
	}
	return u.PID, a.describeRunning(q, u, p, target, before)
}

// describeRunning tells what the main process runs, and what it answers.
func (a *answer) describeRunning(q *question, u unit, p *process, target, before string) error {
	runs := fileID(p.file("exe"))
	embedded := !isBaton(p.file("exe"))
	if hasEnded(p.PID) {
		return fmt.Errorf("pid %d has ended", p.PID)
	}
	a.yes("embedded", embedded)
	a.say("pid", p.PID)
	a.say("runs", runs)
	s, err := askStatus(p)
	if err != nil {
		if q.now {
			return fmt.Errorf("no server answers on the control socket of %s: %w", u.Name, err)
		}
		a.say("silent", fmt.Sprintf("no server answers on the control socket of %s, so it could not be seen what serves: %s", u.Name, err))
		return nil
	}
	if s.PID != p.PID {
		a.say("silent", fmt.Sprintf("pid %d answers on the control socket, but systemd has %d for the main process of %s", s.PID, p.PID, u.Name))
	}
	a.say("generation", s.Generation)
	name := s.Version
	if !embedded && (runs == "" || runs == fileID(target)) {
		if r, err := releaseOf(p, target); err == nil {
			name = r.String()
		}
	}
	a.say("name", name)
	a.say("report", fmt.Sprintf("%s serves: generation %d, pid %d%s", name, s.Generation, s.PID, before))
	return nil
}

// judge says whether a new binary is any good for the service.
func (a *answer) judge(q *question) error {
	if err := checkProgram(q.File); err != nil {
		return err
	}
	var p *process
	embedded := false
	if q.Unit != "" {
		var err error
		if p, embedded, err = a.replaces(q); err != nil {
			return err
		}
	}
	if embedded {
		if !q.force && isBaton(q.File) {
			return fmt.Errorf("it is baton, and %s runs another program; --force deploys it all the same", q.Unit)
		}
		a.say("name", "the new binary")
		a.say("good", " is a whole program for this machine")
		a.yes("same", sameContent(q.File, q.target))
		return nil
	}
	if !isBaton(q.File) {
		if q.Unit == "" {
			return errors.New("it is not baton")
		}
		return fmt.Errorf("it is not baton, which %s runs", q.Unit)
	}
	release, err := releaseOf(p, q.File)
	if err != nil {
		return err
	}
	a.say("name", release)
	a.say("version", release.Version)
	if p == nil {
		a.say("good", "; its configuration only the start can check, for "+q.Unit+" does not run")
		return nil
	}
	a.say("good", " is valid for today's configuration")
	if err := checkConfiguration(p, q.File); err != nil && !(q.rollback && hasEnded(p.PID)) {
		return err
	}
	if runs := fileID(p.file("exe")); runs == "" || runs == fileID(q.target) {
		present, err := releaseOf(p, q.target)
		a.yes("same", err == nil && present == release)
	}
	return nil
}

// replaces returns the main process of the service, nil if it does not run, and whether what the new binary
// replaces is a program that embeds Baton.
func (a *answer) replaces(q *question) (p *process, embedded bool, err error) {
	u, err := showUnit(q.Unit)
	if err != nil {
		return nil, false, err
	}
	if p, err = u.running(); err != nil && !q.rollback {
		return nil, false, err
	}
	if q.rollback && readCrashes(q.target).has(fileKey(q.File)) {
		return nil, false, errors.New("it has crashed before, and is not put back")
	}
	a.yes("proved", u.hasProved(q.target, time.Now()))
	if p != nil {
		embedded = !isBaton(p.file("exe"))
		if !q.rollback || !hasEnded(p.PID) {
			return p, embedded, nil
		}
	}
	return nil, !isBaton(q.target), nil
}

func sameContent(a, b string) bool {
	x, err := os.ReadFile(a)
	y, err2 := os.ReadFile(b)
	return errors.Join(err, err2) == nil && bytes.Equal(x, y)
}

// health asks at the addresses of what serves.
func (a *answer) health(q *question) error {
	u, err := showUnit(q.Unit)
	if err != nil {
		return err
	}
	p, err := u.running()
	if err != nil {
		return err
	}
	if p == nil {
		return fmt.Errorf("%s is %s", q.Unit, u.Active)
	}
	s, err := askStatus(p)
	if err != nil {
		return fmt.Errorf("no server answers on the control socket: %w", err)
	}
	c := q.check(s)
	if q.baseline {
		a.say("before", format(c.ask()))
		return nil
	}
	answers, err := c.run(parseReplies(q.before))
	a.say("answers", answers)
	return err
}

// check returns what is asked of a server.
func (q *question) check(s upgrade.Status) check {
	return check{strings.Split(cmp.Or(q.health, "/"), "\n"), s.Listen, q.within}
}

// step has the service change to the file in place.
func (a *answer) step(q *question, back bool) error {
	syncDirectory(q.File)
	var s serving
	var err error
	if back {
		var tries int
		s, tries, err = q.Back(q.shown())
		a.yes("again", tries > 0)
	} else {
		q.Vote = func(s serving) error {
			_, err := q.check(s.Status).run(parseReplies(q.before))
			return err
		}
		s, err = q.Do(q.shown())
	}
	a.say("generation", s.Status.Generation)
	a.say("pid", s.Unit.PID)
	a.say("serves", s.Status.Version)
	a.yes("lost", q.WasPID == 0 || s.Unit.PID != q.WasPID)
	a.yes("crashes", readCrashes(q.File).has(fileKey(q.File+".previous")))
	return err
}

// drained waits until nothing drains any more.
func (a *answer) drained(q *question) error {
	drain, err := q.Drained(q.generation, q.shown())
	a.say("drained", drain)
	a.yes("crashes", readCrashes(q.File).has(fileKey(q.File+".previous")))
	return err
}

// settle moves the files that a deploy has left to where they belong.
func (a *answer) settle(q *question) error {
	f := filesOf(q.File)
	if q.finish {
		f.finish(q.crashes)
		return nil
	}
	undone, err := f.settle(q.runs)
	a.yes("undone", undone)
	return err
}

package deploy

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/systemd"
)

// questions is the version of the questions that are understood: the script asks no release that has
// another one. It is a variable for the linker, with which tests build a release of the past.
var questions = "1"

// Asks reports whether a command line is a question of the deploy script.
func Asks(args []string) bool {
	if len(args) < 2 {
		return false
	}
	switch args[0] + " " + args[1] {
	case "status -shell", "check -binary", "check -health", "upgrade -serves", "upgrade -crashed":
		return true
	}
	return false
}

// A question is what the flags say.
type question struct {
	step
	now     bool
	target  string
	force   bool
	restore bool
	health  string
	rest    []string // of the arguments
}

// parse reads the flags, of which each question uses its own.
func parse(args []string) (*question, error) {
	q := new(question)
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Bool("shell", true, "print lines KEY=VALUE")
	flags.StringVar(&q.Unit, "unit", "", "`service` of systemd")
	flags.BoolVar(&q.now, "now", false, "do not wait until nothing is under way")
	flags.StringVar(&q.File, "binary", "", "new `file`")
	flags.StringVar(&q.target, "target", "", "`file` that it is to replace")
	flags.BoolVar(&q.force, "force", false, "baton may replace another program")
	flags.StringVar(&q.health, "health", "", "`path` or URL of the health check")
	flags.StringVar(&q.File, "serves", "", "`file` that is to serve")
	flags.BoolVar(&q.Start, "start", false, "the service is not alive")
	flags.BoolVar(&q.restore, "restore", false, "the file was put back")
	flags.StringVar(&q.Name, "name", "", "`name` of what is to serve")
	flags.StringVar(&q.Version, "version", "", "`version` that is to serve")
	flags.Bool("crashed", true, "the main process has died; the arguments of the service follow")
	flags.IntVar(&q.WasPID, "was", 0, "`pid` of what served before")
	if err := flags.Parse(args[1:]); err != nil {
		return nil, err
	}
	q.rest = flags.Args()
	return q, nil
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
	case "-serves":
		err = a.step(q)
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

// describe tells what runs, and which file a deploy would replace. Without a unit it says only that
// it understands the question.
func (a *answer) describe(q *question) error {
	if q.Unit == "" {
		return nil
	}
	limit := 300 * time.Second
	if q.now {
		limit = 0
	}
	u, waited, err := awaitUnit(q.Unit, limit)
	if err != nil && (!q.now || waited != "" || u.Name == "") {
		return err
	}
	a.say("waited", waited)
	a.say("active", u.Active)
	p, err := u.running()
	if err != nil {
		return err
	}
	a.yes("alive", p != nil)
	target, err := u.target(p)
	if err != nil {
		return err
	}
	a.say("target", target)
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
			return fmt.Errorf("%s is %s; in place is %s%s", u.Name, u.Active, cmp.Or(name, "a binary that does not run"), before)
		}
		return nil
	}
	return a.describeRunning(q, u, p, target, before)
}

// describeRunning tells what the main process runs, and what it answers.
func (a *answer) describeRunning(q *question, u unit, p *process, target, before string) error {
	runs := fileID(p.file("exe"))
	embedded := !isBaton(p.file("exe"))
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
		u, err := showUnit(q.Unit)
		if err != nil {
			return err
		}
		if p, err = u.running(); err != nil {
			return err
		}
		embedded = !isBaton(q.target)
		if p != nil {
			embedded = !isBaton(p.file("exe"))
		}
	}
	if embedded {
		if !q.force && isBaton(q.File) {
			return fmt.Errorf("it is baton, and %s runs another program; --force deploys it all the same", q.Unit)
		}
		a.say("name", "the new binary")
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
		return nil
	}
	if err := checkConfiguration(p, q.File); err != nil {
		return err
	}
	if runs := fileID(p.file("exe")); runs == "" || runs == fileID(q.target) {
		present, err := releaseOf(p, q.target)
		a.yes("same", err == nil && present == release)
	}
	return nil
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
	answers, err := checkHealth(q.health, s.Listen)
	a.say("answers", answers)
	return err
}

// step has the service change to the file in place.
func (a *answer) step(q *question) error {
	var s serving
	var err error
	if q.restore {
		var reloads int
		s, reloads, err = q.Restore()
		a.yes("again", reloads > 0)
	} else {
		var drain string
		s, drain, err = q.Do()
		a.say("drained", drain)
	}
	a.say("generation", s.Status.Generation)
	a.say("pid", s.Unit.PID)
	a.say("serves", s.Status.Version)
	return err
}

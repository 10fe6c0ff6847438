// Package command has what the program does besides serving: commands that ask a
// running server through its control socket (upgrade, promote, abort, status), and those that look at
// the program itself (check, version).
//
// A [Call] has all that a command reads and writes, so that commands can be tested
// without a process. Each returns the exit code.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"example.com/baton/server/settings"
	"example.com/baton/systemd"
	"example.com/baton/upgrade"
)

// Exit codes.
const (
	Done        = 0
	Failed      = 1
	BadUsage    = 2 // or bad configuration
	NoServer    = 3 // none answers on the control socket
	NotPossible = 4 // refused, or timed out
)

// Call is one call of the program.
type Call struct {
	Input       settings.Input
	Build       Build
	Stdout      io.Writer
	Stderr      io.Writer
	Width       int                  // columns of the terminal that Stderr is; 0: it is none
	Destination settings.Destination // of Stderr
}

var commands = map[string]func(*Call) int{
	"upgrade":   (*Call).upgrade,
	"promote":   (*Call).promote,
	"abort":     (*Call).abort,
	"status":    (*Call).status,
	"check":     (*Call).check,
	"version":   (*Call).version,
	"-version":  (*Call).version,
	"--version": (*Call).version,
	"help":      (*Call).help,
}

// Name returns the command that the arguments of the program begin with. Without one,
// which is to serve, it is empty.
func Name(args []string) string {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") && commands[args[0]] == nil {
		return ""
	}
	return args[0]
}

// Run runs the command of a name, which has the arguments of c.
func (c *Call) Run(name string) (exitCode int) {
	if run := commands[name]; run != nil {
		return run(c)
	}
	return c.Fail(BadUsage, fmt.Errorf("unknown command %q; want upgrade, promote, abort, status, check, version, or flags to serve", name))
}

// help prints the help of the program itself.
func (c *Call) help() int {
	c.Input.Args = []string{"-h"}
	_, err := settings.Read(c.Input)
	return c.Fail(BadUsage, err)
}

const usage = `baton [flags]     serves until SIGTERM or SIGINT; SIGHUP upgrades
baton upgrade     upgrades to the program that is in place now, and waits
baton promote     ends a trial or watch as good, now
baton abort       ends a trial or watch as bad: the predecessor takes back
baton status      shows the living generations and the last upgrades
baton check       validates flags, environment and configuration file
baton version     prints version, commit and Go version; so does -version

Flags may also be given as BATON_FLAG_NAME in the environment, or as lines
"flag-name value" in the file that -config names; the first of these wins.
`

// Fail prints an error, a line for each problem and with what can be done about it, and
// returns the code. An error that is a [settings.Help] is no failure: Fail prints the
// help and returns Done.
func (c *Call) Fail(code int, err error) int {
	if help, ok := errors.AsType[settings.Help](err); ok {
		io.WriteString(c.Stdout, usage+help.Flags)
		return Done
	}
	c.complain(withHint(err).Error())
	return code
}

// complain prints what has failed, for the journal as an error.
func (c *Call) complain(text string) {
	prefix := ""
	if c.Destination == settings.Journal {
		prefix = systemd.Priority(slog.LevelError)
	}
	c.print(prefix, text)
}

// warn prints an error that does not end the command.
func (c *Call) warn(err error) { c.print("", "warning: "+withHint(err).Error()) }

func (c *Call) print(prefix, text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintln(c.Stderr, prefix+"baton: "+strings.TrimRight(line, "\n"))
	}
}

// hints are what a user of this program can do about an error.
var hints = []struct {
	err  error
	hint string
}{
	{upgrade.ErrControl, " (the control socket; -control names another)"},
	{upgrade.ErrNoServer, "; is it running, and is this its -control path?"},
	{upgrade.ErrUntrusted, ", or name the right socket with -control"},
	{upgrade.ErrUnderway, "; baton status shows how it ends"},
}

func withHint(err error) error {
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return fmt.Errorf("%w%s", err, h.hint)
		}
	}
	return err
}

// codeOf returns the exit code for an error of the control socket's client.
func codeOf(err error) int {
	switch {
	case errors.Is(err, upgrade.ErrNoServer):
		return NoServer
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, upgrade.ErrRefused):
		return NotPossible
	}
	return Failed
}

func (c *Call) printJSON(v any) {
	e := json.NewEncoder(c.Stdout)
	e.SetIndent("", "  ")
	e.Encode(v)
}

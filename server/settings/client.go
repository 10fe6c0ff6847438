package settings

import (
	"errors"
	"flag"
	"fmt"
	"time"

	"example.com/baton/upgrade"
)

// Client is the configuration of a command that asks a running server.
type Client struct {
	Control   string // path of the control socket
	Timeout   time.Duration
	JSON      bool
	Overrides upgrade.Overrides // of an upgrade
	Reason    string            // of an abort
}

const (
	askTimeout     = 5 * time.Second
	upgradeTimeout = 3 * time.Minute
)

// ReadStatus reads the settings of the command status. Errors, of this function and those
// below, join one for each problem, or are a [Help].
func ReadStatus(in Input) (Client, error) {
	c, _, err := in.readClient(askTimeout, func(c *Client, flags *flag.FlagSet) {
		flags.BoolVar(&c.JSON, "json", false, "print JSON")
	})
	return c, err
}

// ReadUpgrade reads the settings of the command upgrade. It waits longer by the times of the trial
// and the watch that the command requests.
func ReadUpgrade(in Input) (Client, error) {
	c, isSet, err := in.readClient(upgradeTimeout, func(c *Client, flags *flag.FlagSet) {
		flags.BoolVar(&c.JSON, "json", false, "print JSON")
		o := &c.Overrides
		flags.Var(&argument{parse: override(&o.Share, share)}, "canary", "`share` of the connections for a trial, in this upgrade")
		flags.Var(&argument{parse: override(&o.Time, least(time.Millisecond))}, "canary-time", "`time` that the trial takes, in this upgrade")
		flags.Var(&argument{parse: override(&o.Watch, least(0))}, "watch", "`time` in which the predecessor can take back, in this upgrade")
	})
	for _, more := range []*time.Duration{c.Overrides.Time, c.Overrides.Watch} {
		if more != nil && !isSet["timeout"] {
			c.Timeout += *more
		}
	}
	return c, err
}

// ReadPromote reads the settings of the command promote.
func ReadPromote(in Input) (Client, error) {
	c, _, err := in.readClient(askTimeout, func(*Client, *flag.FlagSet) {})
	return c, err
}

// ReadAbort reads the settings of the command abort.
func ReadAbort(in Input) (Client, error) {
	c, _, err := in.readClient(askTimeout, func(c *Client, flags *flag.FlagSet) {
		flags.Var(&argument{parse: text(&c.Reason)}, "reason", "`text` for the reports, of which 500 bytes are kept")
	})
	return c, err
}

// readClient reads the settings that all commands have, and more.
func (in Input) readClient(timeout time.Duration, more func(*Client, *flag.FlagSet)) (c Client, isSet map[string]bool, err error) {
	flags := newFlags()
	flags.StringVar(&c.Control, "control", in.ServerControl(), "`path` of the server's control socket")
	flags.DurationVar(&c.Timeout, "timeout", timeout, "how long to wait")
	flags.String("config", "", "`file` to read the control path from")
	more(&c, flags)
	err = errors.Join(in.readInto(flags, false), parseArguments(flags)) // the server's file has other settings
	switch {
	case err != nil:
		return c, nil, err
	case c.Timeout <= 0:
		return c, nil, fmt.Errorf("-timeout %v: want more than 0", c.Timeout)
	case c.Control == "":
		return c, nil, errors.New("-control is empty; want the path of the server's control socket")
	}
	return c, provided(flags), nil
}

// argument is the value of a flag for one call of a command: neither the environment nor the
// server's file sets it, where a setting of the server may have the same name.
type argument struct {
	text  string
	parse func(string) error // is called when all has been read, like that of a setting
}

// Set implements [flag.Value].
func (a *argument) Set(text string) error { a.text = text; return nil }

// String implements [flag.Value].
func (a *argument) String() string { return a.text }

func isArgument(f *flag.Flag) bool {
	_, is := f.Value.(*argument)
	return is
}

// parseArguments parses those that are given.
func parseArguments(flags *flag.FlagSet) (err error) {
	flags.Visit(func(f *flag.Flag) {
		if a, is := f.Value.(*argument); is {
			if problem := a.parse(a.text); problem != nil {
				err = errors.Join(err, fmt.Errorf("-%s: %w", f.Name, problem))
			}
		}
	})
	return err
}

// override returns a parser that sets an override.
func override[T any](into **T, parser func(*T) func(string) error) func(string) error {
	return func(s string) error {
		*into = new(T)
		return parser(*into)(s)
	}
}

// least returns what makes parsers of durations of at least so long.
func least(d time.Duration) func(*time.Duration) func(string) error {
	return func(into *time.Duration) func(string) error { return duration(into, d) }
}

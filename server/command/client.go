package command

import (
	"context"
	"fmt"
	"io"

	"example.com/baton/handlers/backends"
	"example.com/baton/server/settings"
	"example.com/baton/upgrade"
)

// upgrade asks the serving generation for an upgrade, and waits until it is over.
func (c *Call) upgrade() int {
	client, err := settings.ReadUpgrade(c.Input)
	if err != nil {
		return c.Fail(BadUsage, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), client.Timeout)
	defer cancel()
	outcome, err := upgrade.Ask(ctx, client.Control, client.Overrides, c.progress())
	if c.Width > 0 {
		io.WriteString(c.Stderr, clearLine)
	}
	if err != nil {
		if client.JSON {
			c.printJSON(upgrade.Outcome{Result: upgrade.Unknown, Reason: withHint(err).Error()})
		}
		return c.Fail(codeOf(err), err)
	}
	if client.JSON {
		c.printJSON(outcome)
	} else {
		c.printOutcome(outcome)
	}
	switch outcome.Result {
	case upgrade.Succeeded:
		return Done
	case upgrade.Refused:
		return NotPossible
	}
	return Failed
}

const clearLine = "\r\033[K"

// progress returns what shows the progress of an upgrade on a terminal, or nil.
func (c *Call) progress() func(string) {
	if c.Width <= 0 {
		return nil
	}
	return func(line string) { fmt.Fprintf(c.Stderr, clearLine+"%.*s", c.Width-1, line) }
}

func (c *Call) printOutcome(outcome upgrade.Outcome) {
	if outcome.Result == upgrade.Succeeded {
		fmt.Fprintln(c.Stdout, outcome)
		return
	}
	c.complain(outcome.String())
	for _, line := range outcome.Stderr {
		fmt.Fprintln(c.Stderr, "  | "+line)
	}
	if outcome.Result == upgrade.Failed && outcome.Generation > 0 {
		fmt.Fprintf(c.Stderr, "generation %d (pid %d, version %s) goes on serving\n", outcome.Generation, outcome.PID, outcome.Version)
	}
}

// status prints the status of the service.
func (c *Call) status() int {
	client, err := settings.ReadStatus(c.Input)
	if err != nil {
		return c.Fail(BadUsage, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), client.Timeout)
	defer cancel()
	status, err := upgrade.AskStatus(ctx, client.Control)
	if err != nil {
		return c.Fail(codeOf(err), err)
	}
	if client.JSON {
		c.printJSON(status)
	} else {
		status.WriteTo(c.Stdout)
		if report := backends.Parse(status.Service); len(report.Backends) > 0 {
			fmt.Fprintln(c.Stdout)
			report.WriteTo(c.Stdout)
		}
	}
	return Done
}

// promote ends a trial or watch as good.
func (c *Call) promote() int {
	client, err := settings.ReadPromote(c.Input)
	if err != nil {
		return c.Fail(BadUsage, err)
	}
	return c.decide(client, "promoted; baton status shows what comes of it", upgrade.Promote)
}

// abort ends a trial or watch as bad.
func (c *Call) abort() int {
	client, err := settings.ReadAbort(c.Input)
	if err != nil {
		return c.Fail(BadUsage, err)
	}
	return c.decide(client, "aborted: the predecessor takes back", func(ctx context.Context, path string) error {
		return upgrade.Abort(ctx, path, client.Reason)
	})
}

// decide ends a trial or watch, and prints done.
func (c *Call) decide(client settings.Client, done string, end func(ctx context.Context, path string) error) int {
	ctx, cancel := context.WithTimeout(context.Background(), client.Timeout)
	defer cancel()
	if err := end(ctx, client.Control); err != nil {
		return c.Fail(codeOf(err), err)
	}
	fmt.Fprintln(c.Stdout, done)
	return Done
}

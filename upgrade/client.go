package upgrade

// This file holds the asking side of the control socket.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
)

var (
	// ErrRefused: the server does not do what was asked, and says why.
	ErrRefused = errors.New("the server refuses")
	// ErrNoServer: nobody answers on the control socket.
	ErrNoServer = errors.New("no server answers on the control socket")
	// ErrLost: the server ended, or closed the connection, before its answer.
	ErrLost = errors.New("the server ended before it answered")
	// ErrUntrusted: the server may be one that a stranger has put there. Errors that
	// wrap it wrap [ErrRefused] too.
	ErrUntrusted = errors.New("the server is not trusted")
	// ErrUnderway: the caller waits no longer for an upgrade, which goes on.
	ErrUnderway = errors.New("the upgrade goes on")
)

// marked is an error that is another one as well, which its text does not mention.
type marked struct {
	error
	as error
}

func (m marked) Is(target error) bool { return target == m.as }

func (m marked) Unwrap() error { return m.error }

// Ask asks the generation that serves for an upgrade and waits until its
// successor serves and it has drained. progress, if not nil, is called with
// what goes on meanwhile. When ctx ends, or the server, after the successor has
// begun to serve, the outcome is returned as far as it is known, without an
// error. Errors wrap [ErrNoServer], [ErrRefused], [ErrUntrusted], [ErrLost] or the
// context's error; that together with [ErrUnderway] if an upgrade has begun.
func Ask(ctx context.Context, control string, progress func(string)) (Outcome, error) {
	var known *Outcome
	said := ""
	err := converse(ctx, control, request{Command: "upgrade"}, func(r reply) {
		if r.Outcome != nil {
			known = r.Outcome
		}
		if r.Progress == "" {
			return
		}
		if said = r.Progress; progress != nil {
			progress(r.Progress)
		}
	})
	if known != nil {
		return *known, nil
	}
	if ctx.Err() != nil && said != "" {
		err = marked{fmt.Errorf("%w; the upgrade goes on all the same: %s", err, said), ErrUnderway}
	}
	return Outcome{}, err
}

// AskStatus asks the generation that serves for its status. Errors are those
// of [Ask].
func AskStatus(ctx context.Context, control string) (Status, error) {
	var status *Status
	err := converse(ctx, control, request{Command: "status"}, func(r reply) { status = r.Status })
	if err == nil && status == nil {
		err = ErrLost
	}
	if err != nil {
		return Status{}, err
	}
	return *status, nil
}

// converse sends a request and calls on for each reply until the final one.
func converse(ctx context.Context, control string, req request, on func(reply)) error {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", control)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w %s", ErrNoServer, control)
	} else if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: the control socket %s is for the user of the service and root alone; ask as one of them", ErrRefused, control)
	} else if err != nil {
		return fmt.Errorf("ask on control socket: %w", err)
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	if err := trustServer(nc, control); err != nil {
		return err
	}

	line, err := json.Marshal(req)
	if err != nil {
		return err
	}
	// The server may refuse before it reads, so that a failed write is not the
	// last word.
	nc.Write(append(line, '\n'))
	replies := bufio.NewScanner(nc)
	replies.Buffer(nil, 1<<20) // 20 lines of a successor's output, each byte of them escaped
	for replies.Scan() {
		var r reply
		if err := unmarshalPrintable(replies.Bytes(), &r); err != nil {
			return fmt.Errorf("%w: its reply is malformed: %s", ErrLost, printable(err.Error()))
		}
		if r.Error != "" {
			return fmt.Errorf("%w: %s", ErrRefused, r.Error)
		}
		on(r)
		if r.Final {
			return nil
		}
	}
	if errors.Is(replies.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("%w: its reply is longer than 1 MiB", ErrLost)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("wait for the server's answer: %w", context.Cause(ctx))
	}
	return ErrLost
}

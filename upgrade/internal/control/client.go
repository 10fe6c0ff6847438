package control

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
	// ErrRefused: the server does not do what was requested, and reports why.
	ErrRefused = errors.New("the server refuses")
	// ErrNoServer: no server accepts on the control socket.
	ErrNoServer = errors.New("no server answers on the control socket")
	// ErrLost: the server ended, or closed the connection, before its answer.
	ErrLost = errors.New("the server ended before it answered")
	// ErrUntrusted: the server may be one that a stranger has put there. It wraps
	// ErrRefused.
	ErrUntrusted = fmt.Errorf("%w: control socket", ErrRefused)
)

// Converse sends a request to the server at a path and calls on for each reply until the
// final one. Nothing in a reply that is not printable is left as it is. Errors wrap
// [ErrNoServer], [ErrRefused], [ErrUntrusted], [ErrLost] or the context's error.
func Converse(ctx context.Context, path string, request Request, on func(Reply) error) error {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w %s", ErrNoServer, path)
	} else if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: the control socket %s is for the user of the service and root alone; run this as one of them", ErrRefused, path)
	} else if err != nil {
		return fmt.Errorf("connect to control socket: %w", err)
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	if err := trustServer(nc, path); err != nil {
		return err
	}

	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	// The server may refuse before it reads, so that the error of a failed write is not
	// the one that matters.
	nc.Write(append(line, '\n'))
	replies := bufio.NewScanner(nc)
	replies.Buffer(nil, 1<<20) // 20 lines of a successor's output, each byte of them escaped
	for replies.Scan() {
		var r Reply
		err := unmarshalPrintable(replies.Bytes(), &r)
		if err == nil && r.Error == "" {
			err = on(r)
		}
		if err != nil {
			return fmt.Errorf("%w: its reply is malformed: %s", ErrLost, printable(err.Error()))
		}
		if r.Error != "" {
			return fmt.Errorf("%w: %s", ErrRefused, r.Error)
		}
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

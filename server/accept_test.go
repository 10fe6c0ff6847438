package server_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/baton/server"
)

// failingListener fails to accept a number of times with an error of accept(2).
type failingListener struct {
	net.Listener
	err  error
	left atomic.Int32
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", l.err)}
	}
	return l.Listener.Accept()
}

type logBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func TestAcceptErrorsAreRetried(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.ENOMEM, syscall.ENOBUFS, syscall.EPERM, syscall.EPROTO, syscall.ENETDOWN,
		syscall.EHOSTUNREACH, syscall.ENONET, syscall.EOPNOTSUPP, syscall.EIO, syscall.EMFILE, syscall.ENFILE,
		syscall.ECONNABORTED, syscall.EHOSTDOWN, syscall.ENOPROTOOPT, syscall.ENETUNREACH, syscall.EINVAL, syscall.ENOSR,
		syscall.ETIMEDOUT, syscall.ESOCKTNOSUPPORT, syscall.EPROTONOSUPPORT} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			failing := &failingListener{Listener: ln, err: errno}
			failing.left.Store(3)
			var log logBuffer
			s := serveOn(t, failing, server.Options{Handler: http.HandlerFunc(hello), Logger: slog.New(slog.NewTextHandler(&log, nil))})
			c := s.dial()
			c.get("/")
			if n := s.AcceptErrors(); n != 3 {
				t.Errorf("got %d accept errors, want 3", n)
			}
			if n := strings.Count(log.String(), "cannot be accepted"); n != 1 {
				t.Errorf("got %d lines about it, want 1:\n%s", n, log.String())
			}
			if err := s.Accepting(); err != nil {
				t.Errorf("accepting: %v", err)
			}
			<-s.drain(patience, none)
		})
	}
}

// A listener that has only failed for a while is reported, unless descriptors are short.
func TestListenerThatDoesNotAcceptIsReported(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want error
	}{
		{"a firewall", syscall.EPERM, syscall.EPERM},
		{"no descriptors", syscall.EMFILE, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, recovered := server.FailFor(test.err)
			if !errors.Is(got, test.want) || got == nil != (test.want == nil) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if recovered != nil {
				t.Errorf("after an accept: got %v, want nil", recovered)
			}
		})
	}
}

package server

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// refusingListener fails a number of times, and then has a connection.
type refusingListener struct {
	failures int
	net.Listener
}

func (l *refusingListener) Accept() (net.Conn, error) {
	if l.failures--; l.failures >= 0 {
		return nil, syscall.ENOMEM
	}
	_, far := net.Pipe()
	return far, nil
}

func (l *refusingListener) Close() error   { return nil }
func (l *refusingListener) Addr() net.Addr { return &net.UnixAddr{Name: "x", Net: "memory"} }

// The pauses between attempts double, from 5 ms to a second.
func TestAcceptBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Logger: slog.New(slog.DiscardHandler)})
		const doubled, longest = 8, 3 // 5 ms to 640 ms, and a second each
		l := s.newListener(&refusingListener{failures: doubled + longest}, nil)
		begin := time.Now()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if took, want := time.Since(begin), (1<<doubled-1)*5*time.Millisecond+longest*time.Second; took != want {
			t.Errorf("took %v, want %v", took, want)
		}
		if n := s.AcceptErrors(); n != doubled+longest {
			t.Errorf("counted %d errors, want %d", n, doubled+longest)
		}
		c.Close()
	})
}

// A listener that is closed does not wait for its next attempt.
func TestAcceptIsClosedWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Logger: slog.New(slog.DiscardHandler)})
		failing := &closable{refusingListener{failures: 100}, make(chan struct{})}
		l := s.newListener(failing, nil)
		accepted := make(chan error, 1)
		go func() { _, err := l.Accept(); accepted <- err }()
		time.Sleep(5 * time.Second) // in the midst of a pause
		begin := time.Now()
		l.Close()
		if err := <-accepted; !errors.Is(err, net.ErrClosed) || time.Since(begin) != 0 {
			t.Errorf("got %v after %v, want the end at once", err, time.Since(begin))
		}
	})
}

// closable is a listener that knows that it is closed.
type closable struct {
	refusingListener
	closed chan struct{}
}

func (l *closable) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
		return l.refusingListener.Accept()
	}
}

func (l *closable) Close() error { close(l.closed); return nil }

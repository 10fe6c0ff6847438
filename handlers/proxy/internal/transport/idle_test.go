package transport

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

func TestIdleTimeoutOf(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": idleTimeout, "timeout=60": idleTimeout, "timeout=5": idleTimeout, "timeout=5, max=100": idleTimeout, "max=100,timeout=2": 1600 * time.Millisecond,
		"Timeout = 1": 800 * time.Millisecond, "timeout=0": 0, "timeout": idleTimeout, "timeout=-1": idleTimeout, "timeout=x": idleTimeout,
		"timeout=99999999999999999999": idleTimeout, "max=1": idleTimeout,
	} {
		testserver.Equal(t, value, idleTimeoutOf(http.Header{"Keep-Alive": {value}}), want)
	}
	testserver.Equal(t, "none", idleTimeoutOf(http.Header{}), idleTimeout)
}

func TestIdleConnectionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var i idle
		add := func(timeout time.Duration) (isOpen func() bool) {
			near, far := net.Pipe()
			c := &conn{patient: patient{Conn: near}, idleTimeout: timeout}
			c.stream = &c.patient
			i.keep(c, time.Now())
			gone := make(chan struct{})
			go func() { far.Read(make([]byte, 1)); close(gone) }()
			return func() bool {
				synctest.Wait()
				select {
				case <-gone:
					return false
				default:
					return true
				}
			}
		}
		first := add(idleTimeout)
		time.Sleep(3 * time.Second)
		second, never := add(idleTimeout), add(0)
		testserver.Equal(t, "one without a time is open", never(), false)
		time.Sleep(time.Second + time.Millisecond)
		testserver.Equal(t, "first is open after 4 s", first(), false)
		testserver.Equal(t, "second is open after 1 s", second(), true)
		time.Sleep(3 * time.Second)
		testserver.Equal(t, "second is open after 4 s", second(), false)
		testserver.Equal(t, "timer is armed", i.armed, false)
		third := add(time.Second)
		time.Sleep(2 * time.Second)
		if c := i.take(time.Now()); c != nil {
			t.Error("got a connection beyond its time")
		}
		testserver.Equal(t, "third is open", third(), false)
		var many []func() bool
		for range maxIdle + 1 {
			many = append(many, add(idleTimeout))
		}
		testserver.Equal(t, "the last of many is open", many[maxIdle](), false)
		testserver.Equal(t, "the last but one is", many[maxIdle-1](), true)
		i.accept(false)
		testserver.Equal(t, "open when none is to be idle", many[0](), false)
		testserver.Equal(t, "open when it becomes idle after that", add(idleTimeout)(), false)
		i.accept(true)
		last := add(idleTimeout)
		testserver.Equal(t, "open when some may be idle again", last(), true)
		time.Sleep(idleTimeout)
		testserver.Equal(t, "open after its time", last(), false)
	})
}

// A connection on which an end or bytes have come since is not written to.
func TestIdleConnectionIsChecked(t *testing.T) {
	for name, event := range map[string]func(*net.TCPConn){
		"end":              func(conn *net.TCPConn) { conn.CloseWrite() },
		"reset":            func(conn *net.TCPConn) { conn.SetLinger(0); conn.Close() },
		"a 408":            func(conn *net.TCPConn) { io.WriteString(conn, "HTTP/1.1 408 Timeout\r\n\r\n") },
		"another response": func(conn *net.TCPConn) { io.WriteString(conn, plain) },
	} {
		t.Run(name, func(t *testing.T) {
			var second sync.WaitGroup
			b := listen(t, func(number int, conn *net.TCPConn, in *bufio.Reader) {
				readRequest(in)
				io.WriteString(conn, plain)
				if number == 1 {
					event(conn)
					defer second.Done()
				}
				if r, err := readRequest(in); err == nil {
					t.Errorf("connection %d got a second request: %v", number, r.URL)
				}
			})
			second.Add(1)
			if _, _, err := b.get(t, request(t, "GET", nil)); err != nil {
				t.Fatal(err)
			}
			await(t, "the event", func() bool {
				b.transport.idle.mu.Lock()
				defer b.transport.idle.mu.Unlock()
				if len(b.transport.idle.conns) == 0 {
					return true
				}
				quiet, _ := b.transport.idle.conns[0].isQuiet()
				return !quiet
			})
			if _, _, err := b.get(t, request(t, "POST", strings.NewReader("x"))); err != nil {
				t.Error(err)
			}
			second.Wait()
		})
	}
}

package transport

import (
	"net"
	"net/http"
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
		i.close()
		testserver.Equal(t, "open when closed", many[0](), false)
		testserver.Equal(t, "open when closed before", add(idleTimeout)(), false)
	})
}

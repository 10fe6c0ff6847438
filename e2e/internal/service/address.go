package service

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func SplitAddress(listen string) (network, address string) {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		return "unix", path
	}
	return "tcp", strings.TrimPrefix(listen, "tls:")
}

func (b *Baton) Expand(s string) string {
	return strings.NewReplacer("HOST", b.Host, "DIR", b.Dir, "ADDRESS", b.Address).Replace(s)
}

var hosts atomic.Uint32

// Loopback returns an address of 127.0.0.0/8 that no other service in this or another run of the tests
// has, so that a port that is free stays free until the service binds it.
func Loopback() string {
	pid, n := os.Getpid(), hosts.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 10+pid>>8%200, pid%256, 1+n%250)
}

// FreePort returns a port that nobody has, and that it has not returned before.
func FreePort(t testing.TB, host string) string {
	t.Helper()
	for {
		ln, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		address := ln.Addr().String()
		ln.Close()
		if _, given := givenPorts.LoadOrStore(address, true); !given {
			_, port, _ := net.SplitHostPort(address)
			return port
		}
	}
}

var givenPorts sync.Map // addresses

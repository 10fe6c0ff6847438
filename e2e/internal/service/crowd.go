package service

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
)

// EveryKind makes a service of connections of every kind: HTTP/1.1, HTTP/2 and WebSockets, each over TLS and
// without, in front of a backend for all of them.
func EveryKind(t testing.TB) (Option, Over) {
	t.Helper()
	cert, key := certificate.Certificate(t)
	return EveryKindWith(t, cert, key)
}

// EveryKindWith does so with a certificate that is there.
func EveryKindWith(t testing.TB, certFile, keyFile string) (Option, Over) {
	t.Helper()
	proxied := Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(backend.EveryKind)))
	return func(s *Setup) {
		OverTLS(certFile, keyFile)(s)
		proxied(s)
		Patient()(s)
	}, Over{certificate.Trusting(t, []string{certFile})}
}

// exchanges are what clients of every kind ask for, among it downloads and uploads that take a while.
func exchanges() []exchange.Exchange {
	return append(exchange.Echo(""),
		exchange.New("GET", "/drip/200000", nil, 200, exchange.Pattern(200_000)),
		exchange.New("POST", "/echo", exchange.Pattern(400_000), 200, exchange.Pattern(400_000)))
}

// Crowd is a load of every kind of connection at once.
type Crowd struct {
	kinds []kind
}

// kind is the load of one protocol.
type kind struct {
	name   string
	counts *load.Tally
	stop   func() *load.Tally
}

// CrowdSize is how many clients of each kind there are, of each of the habits of that kind.
type CrowdSize struct{ Busy, Pausing, Silent int }

// SmallCrowd is enough to see that each kind keeps its connections.
var SmallCrowd = CrowdSize{Busy: 1, Pausing: 4, Silent: 4}

// Clients counts all clients of a crowd.
func (n CrowdSize) Clients() int {
	return 2*(n.Busy+n.Pausing+2*n.Silent) + 4*(n.Busy+n.Pausing+n.Silent)
}

// StartCrowd starts a load of every kind on a service with EveryKind, and waits until each client has its connection.
func StartCrowd(t *testing.T, b *Baton, over Over, n CrowdSize, once bool) *Crowd {
	t.Helper()
	c := new(Crowd)
	for _, way := range []struct {
		name, address string
		config        *tls.Config
	}{{"", b.Address, nil}, {" over TLS", b.Secure(), over.Config}} {
		for _, protocol := range []struct {
			name    string
			clients [load.Habits]int
		}{
			{"HTTP/1.1", [load.Habits]int{load.BackToBack: n.Busy, load.Pausing: n.Pausing, load.Silent: n.Silent, load.SilentAfter: n.Silent}},
			{"HTTP/2", [load.Habits]int{load.Streams: n.Busy, load.StreamsPausing: n.Pausing, load.StreamsSilent: n.Silent}},
			{"WebSockets", [load.Habits]int{load.Sockets: n.Busy, load.SocketsPausing: n.Pausing, load.SocketsSilent: n.Silent}},
		} {
			l := load.Load{Network: "tcp", Address: way.address, TLS: way.config, Exchanges: exchanges(),
				Clients: protocol.clients, Patience: patience, Grace: b.Grace(), LastWords: true, Once: once}.Paced()
			l.Rest *= 4 // one request in ten takes a fifth of a second, and there are clients of six kinds
			counts, stop := load.Start(t, l)
			c.kinds = append(c.kinds, kind{protocol.name + way.name, counts, stop})
		}
	}
	for _, k := range c.kinds {
		load.AwaitCrowd(t, k.counts, k.counts.Clients)
	}
	return c
}

// Stop ends the load. The idle clients speak once more, if their connection is still there.
func (c *Crowd) Stop() {
	for _, k := range c.kinds {
		k.stop()
	}
}

// Requests counts the answered requests of each kind.
func (c *Crowd) Requests() (each []int64) {
	for _, k := range c.kinds {
		each = append(each, k.counts.Requests())
	}
	return each
}

// Advanced says whether each kind has been answered so many requests more.
func (c *Crowd) Advanced(since []int64, n int64) bool {
	for i, k := range c.kinds {
		if k.counts.Requests() < since[i]+n {
			return false
		}
	}
	return true
}

// CheckKept checks that each client has the connection that it began with, and that nothing was lost or refused.
func (c *Crowd) CheckKept(t *testing.T) {
	t.Helper()
	for _, k := range c.kinds {
		t.Run(k.name, func(t *testing.T) {
			load.CheckNothingLost(t, k.counts)
			load.CheckAllKept(t, k.counts, k.counts.Clients)
		})
	}
}

// CheckNothingLost checks that no request was lost, on whatever connection.
func (c *Crowd) CheckNothingLost(t *testing.T) {
	t.Helper()
	for _, k := range c.kinds {
		t.Run(k.name, func(t *testing.T) { load.CheckNothingLost(t, k.counts) })
	}
}

// Ends counts the connections that ended: with the end announced, and without.
func (c *Crowd) Ends() (told, lost int) {
	for _, k := range c.kinds {
		for h := range load.Habits {
			told += int(k.counts.Reconnects[h].Load())
			lost += int(k.counts.Lost[h].Load())
		}
	}
	return told, lost
}

// Wrong counts the answers that were not what they should be.
func (c *Crowd) Wrong() (n int64) {
	for _, k := range c.kinds {
		n += k.counts.Failed[exchange.WrongBody].Load() + k.counts.Failed[exchange.WrongStatus].Load() + k.counts.Failed[exchange.NoConnection].Load()
	}
	return n
}

func (c *Crowd) String() string {
	var b strings.Builder
	for _, k := range c.kinds {
		fmt.Fprintf(&b, "%s: %v\n", k.name, k.counts)
	}
	return b.String()
}

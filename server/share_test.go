package server_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/server/internal/selfsigned"
	"example.com/baton/upgrade"
)

// sharers are a generation that shares its connections, and its successors, which adopt and do
// not accept.
type sharers struct {
	t       *testing.T
	first   *served
	config  *tls.Config        // nil: plaintext
	trust   func() *tls.Config // returns that of a client
	isHTTP2 bool
}

// eachProtocol runs a test with each protocol whose connections can be shared.
func eachProtocol(t *testing.T, test func(t *testing.T, x *sharers)) {
	for _, p := range []struct {
		name          string
		secure, http2 bool
	}{{"HTTP1", false, false}, {"HTTP1 over TLS", true, false}, {"HTTP2", false, true}, {"HTTP2 over TLS", true, true}} {
		t.Run(p.name, func(t *testing.T) { test(t, newSharers(t, p.secure, p.http2)) })
	}
}

func newSharers(t *testing.T, secure, http2 bool) *sharers {
	certificate := selfsigned.New(t, time.Now().Add(time.Hour), "example.com")
	x := &sharers{t: t, isHTTP2: http2, trust: certificate.Client}
	if secure {
		x.config = &tls.Config{Certificates: []tls.Certificate{certificate.TLS(t)}}
	}
	x.first = x.generation("first")
	x.first.Serve()
	return x
}

// generation returns one that does not accept yet. It answers /slow after a moment.
func (x *sharers) generation(name string) *served {
	s := &served{t: x.t, listener: listen(x.t), Server: server.New(server.Options{IdleGrace: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				time.Sleep(5 * time.Millisecond)
			}
			io.WriteString(w, name)
		})})}
	s.addr = s.listener.Addr()
	if x.config == nil {
		s.Add(s.listener)
	} else {
		s.AddTLS(s.listener, x.config.Clone())
	}
	return s
}

// handoff is the way to another generation.
func handoff(to *served) upgrade.Handoff {
	return upgrade.Handoff{Kept: all, Migrate: (&movers{second: to}).move, States: true}
}

// traffic is clients of one connection each.
type traffic struct {
	stop    chan struct{}
	clients sync.WaitGroup
	second  atomic.Int64 // answers of successors
}

// start has clients make requests until end. No request may fail, and none may need another
// connection.
func (x *sharers) start(n int) *traffic {
	load := &traffic{stop: make(chan struct{})}
	for range n {
		get, leave := x.dial()
		load.clients.Go(func() {
			defer leave()
			for paths := []string{"/", "/slow"}; ; {
				select {
				case <-load.stop:
					return
				case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
				}
				body, err := get(paths[rand.IntN(2)])
				if err != nil {
					x.t.Error(err)
					return
				}
				if body == "second" {
					load.second.Add(1)
				}
			}
		})
	}
	await(x.t, "the connections", func() bool { return x.first.Accepted() == uint64(n) })
	return load
}

// dial returns what makes requests on one connection, and what closes it.
func (x *sharers) dial() (get func(path string) (string, error), leave func()) {
	if x.isHTTP2 {
		return x.dialHTTP2()
	}
	c := x.first.dial()
	if x.config != nil {
		c = c.shake(x.trust())
	}
	return func(path string) (string, error) {
		if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return "", err
		}
		resp, err := http.ReadResponse(c.in, nil)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(resp.Body)
		if resp.Close || resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("got %s, close %t, %w", resp.Status, resp.Close, err)
		}
		return string(body), err
	}, func() { c.Close() }
}

func (x *sharers) dialHTTP2() (get func(path string) (string, error), leave func()) {
	transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: x.trust()}
	transport.Protocols.SetHTTP2(true)
	transport.Protocols.SetUnencryptedHTTP2(true)
	var dials atomic.Int64
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	url := "http://" + x.first.addr.String()
	if x.config != nil {
		url = "https://" + x.first.addr.String()
	}
	client := http.Client{Transport: transport}
	return func(path string) (string, error) {
		resp, err := client.Get(url + path)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if n := dials.Load(); n != 1 || resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("got %s on connection %d, %w", resp.Status, n, err)
		}
		return string(body), err
	}, transport.CloseIdleConnections
}

func (load *traffic) end() {
	close(load.stop)
	load.clients.Wait()
}

// A share of the connections is tried out in a successor that does not accept, and comes back:
// again and again, and no client notices.
func TestShareAndReturn(t *testing.T) {
	t.Parallel()
	const clients = 100
	rounds := tier.Times(t, "rounds", 2, 5, 5)
	eachProtocol(t, func(t *testing.T, x *sharers) {
		load := x.start(clients)
		for range rounds {
			second := x.generation("second")
			_, before := x.first.Migrated()
			given := func() uint64 { _, now := x.first.Migrated(); return now - before }
			answered := load.second.Load()
			x.first.Share(handoff(second), 0.3)
			await(t, "the share", func() bool { return given() == 0.3*clients })
			await(t, "its answers", func() bool { return load.second.Load() >= answered+clients })
			x.first.Reclaim()
			if n := given(); n != 0.3*clients {
				t.Errorf("%d connections have migrated, want %v", n, 0.3*clients)
			}
			if d := <-second.drainBy(hang, handoff(x.first)); d.Migrated != 0.3*clients || d.Connections != (upgrade.Closed{}) {
				t.Errorf("got %+v, want what was given, and nothing closed", d)
			}
		}
		load.end()
		<-x.first.drain(patience, all)
	})
}

// All connections go to a successor in the end, in steps, and stay there.
func TestShareMoreAndDrain(t *testing.T) {
	t.Parallel()
	const clients = 50
	eachProtocol(t, func(t *testing.T, x *sharers) {
		load := x.start(clients)
		second := x.generation("second")
		x.first.Share(handoff(second), 0.1)
		x.first.Share(handoff(second), 0.5)
		await(t, "half of them", func() bool { _, out := x.first.Migrated(); return out >= clients/2 })
		x.first.Share(handoff(second), 1)
		await(t, "all of them", func() bool { _, out := x.first.Migrated(); return out == clients })
		if d := <-x.first.drainBy(hang, handoff(second)); d.Migrated != clients || d.Connections != (upgrade.Closed{}) {
			t.Errorf("got %+v, want all migrated since the first Share, and nothing closed", d)
		}
		load.end()
		<-second.drain(patience, all)
	})
}

// Wherever it is when it is reclaimed, each connection is one generation's, and answers.
func TestReclaimAtAnyMoment(t *testing.T) {
	tier.Slow(t, "takes a share back at one moment after another")
	t.Parallel()
	const clients = 50
	eachProtocol(t, func(t *testing.T, x *sharers) {
		load := x.start(clients)
		for i := range 10 {
			second := x.generation("second")
			x.first.Share(handoff(second), [...]float64{0.5, 1}[i%2])
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
			x.first.Reclaim()
			_, out := x.first.Migrated()
			d := <-second.drainBy(hang, handoff(x.first))
			if _, now := x.first.Migrated(); now != out || d.Connections != (upgrade.Closed{}) {
				t.Errorf("got %+v, and %d migrated after Reclaim", d, now-out)
			}
		}
		load.end()
		<-x.first.drain(patience, all)
	})
}

// While a server is reclaimed its successor may hang, and then die.
func TestReclaimFromASuccessorThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: names("first"), IdleTimeout: time.Minute}, server.Options{})
		m.first.Check(t.Context())
		died := make(chan struct{})
		m.gate = func(_ context.Context, conns []upgrade.Connection) []bool {
			<-died
			return nil
		}
		var clients []*client
		for range 500 {
			clients = append(clients, m.first.dial())
			clients[len(clients)-1].isFrom("first")
		}
		begin := time.Now()
		m.first.Share(upgrade.Handoff{Kept: all, Migrate: m.move}, 1)
		synctest.Wait()
		given := int(m.offered.Load())
		if given == 0 || given > 256 {
			t.Errorf("%d connections are under way, want some", given)
		}
		window := m.first.Window()
		reclaimed := make(chan struct{})
		go func() { m.first.Reclaim(); close(reclaimed) }()
		synctest.Wait()
		m.first.dial().isFrom("first") // it accepts again already
		select {
		case <-reclaimed:
			t.Error("connections are under way, and Reclaim has returned")
		default:
		}
		close(died)
		<-reclaimed
		time.Sleep(time.Second)
		for _, c := range clients[:250] {
			c.isFrom("first")
		}
		synctest.Wait()
		if n := len(window); n > 0 {
			t.Errorf("%d places in the window are not given back", n)
		}
		for _, c := range clients[250:] {
			c.closedCleanly()
		}
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("idle for %v, want the idle timeout", took)
		}
		m.gate = nil
		if d := <-m.handOff(patience); d.Connections != (upgrade.Closed{}) || d.Migrated != 250 {
			t.Errorf("got %+v, want the others migrated", d)
		}
		m.end()
	})
}

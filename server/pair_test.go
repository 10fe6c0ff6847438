package server_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// pair is a pair of servers on sockets of their own.
type pair struct {
	server.Pair
	t             *testing.T
	public, admin net.Listener

	entered chan struct{} // a request has come to the public server
	begun   chan struct{} // which drains
	open    chan struct{} // closed when requests to it may end
	drained chan upgrade.Drained
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, entered: make(chan struct{}, 1), begun: make(chan struct{}, 1), open: make(chan struct{}), drained: make(chan upgrade.Drained, 1)}
	p.Public = server.New(server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.entered <- struct{}{}
		<-server.Draining(r.Context())
		p.begun <- struct{}{}
		<-p.open
		io.WriteString(w, "public")
	})})
	p.Admin = server.New(server.Options{IdleGrace: -1, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "admin")
	})})
	for s, ln := range map[*server.Server]*net.Listener{p.Public: &p.public, p.Admin: &p.admin} {
		var err error
		if *ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		s.Add(*ln)
	}
	p.Serve()
	return p
}

// dial connects to a listener. All that comes of it must come within a minute.
func (p *pair) dial(ln net.Listener) net.Conn {
	p.t.Helper()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(time.Minute))
	return nc
}

const pairRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// answer returns the body of the next response.
func (p *pair) answer(in *bufio.Reader) string {
	p.t.Helper()
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

// get sends a request, and returns the body of the response.
func (p *pair) get(nc net.Conn) string {
	io.WriteString(nc, pairRequest)
	return p.answer(bufio.NewReader(nc))
}

// drainDuringRequest begins a drain while the public server has a request, for which
// that waits.
func (p *pair) drainDuringRequest(kept bool) (answer *bufio.Reader) {
	p.t.Helper()
	nc := p.dial(p.public)
	io.WriteString(nc, pairRequest)
	<-p.entered
	p.drain(kept)
	<-p.begun
	return bufio.NewReader(nc)
}

func (p *pair) drain(kept bool) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.drained <- p.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return kept }})
	}()
	p.t.Cleanup(func() { cancel(); <-ended })
}

// At a stop operators can watch the drain of the public server to its end.
func TestPairDrainsTheAdminServerLast(t *testing.T) {
	p := newPair(t)
	in := p.drainDuringRequest(false)
	if body := p.get(p.dial(p.admin)); body != "admin" {
		t.Errorf("got %q from the admin server in the drain, want admin", body)
	}
	if load := p.Load(); load.Requests != 1 || load.Connections.Active != 1 {
		t.Errorf("got %+v in hand, want the request to the public server", load)
	}
	close(p.open)
	if body := p.answer(in); body != "public" {
		t.Errorf("got %q from the public server, want public", body)
	}
	if d := <-p.drained; d.Requests != 1 {
		t.Errorf("got %+v, want the public server's request", d)
	}
	if nc, err := net.Dial("tcp", p.admin.Addr().String()); err == nil {
		nc.Close()
		t.Error("the admin server accepts connections after the drain")
	}
}

// A successor that has the admin server's listener answers there from now on.
func TestPairDrainsBothForASuccessor(t *testing.T) {
	p := newPair(t)
	idle := p.dial(p.admin)
	p.get(idle)
	in := p.drainDuringRequest(true)
	if rest, err := io.ReadAll(idle); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v on an idle connection to the admin server, want it closed", rest, err)
	}
	close(p.open)
	p.answer(in)
	<-p.drained
}

// unopenedTCP is a connection that has come from a predecessor.
type unopenedTCP struct{ *net.TCPConn }

func (c unopenedTCP) Open() (net.Conn, error) { return c.TCPConn, nil }

func TestPairAdoptsByListener(t *testing.T) {
	p := newPair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc := p.dial(ln)
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p.Adopt(upgrade.Connection{Conn: unopenedTCP{accepted.(*net.TCPConn)}, Listener: p.admin})()
	if body := p.get(nc); body != "admin" {
		t.Errorf("got %q, want the answer of the listener's server", body)
	}
	if in, _ := p.Public.Migrated(); in != 0 {
		t.Errorf("the public server has adopted %d connections, want none", in)
	}
	p.drain(true)
	<-p.drained
}

func TestPairCheck(t *testing.T) {
	p := newPair(t)
	if err := p.Check(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Check(ctx); err == nil {
		t.Error("got no error of servers that had no time to answer")
	}
	if err := p.Accepting(); err != nil || p.AcceptErrors() != 0 {
		t.Errorf("got %v and %d failed attempts to accept, want none", err, p.AcceptErrors())
	}
	p.drain(true)
	<-p.drained
}

package server_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
)

// sizes is a handler that answers with a generation's name, or, in a stream of its own, with as
// many bytes as the path says. Trailers tell how many it has got.
func sizes(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		size, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			io.WriteString(w, name)
			return
		}
		w.Header().Set(http.TrailerPrefix+"Got", fmt.Sprint(n, r.Trailer.Get("Sum")))
		io.WriteString(w, pattern(size))
	})
}

func newHTTP2Movers(t *testing.T) *movers {
	return newHTTP2MoversWith(t, patience)
}

func newHTTP2MoversWith(t *testing.T, grace time.Duration) *movers {
	return &movers{first: serve(t, server.Options{Handler: sizes("first"), IdleGrace: grace}),
		second: serve(t, server.Options{Handler: sizes("second")})}
}

// rests has a connection of HTTP/2 come to rest: it has carried a request, and another one
// that shows that the client has no header table.
func (c *http2Client) rests(name string) {
	c.t.Helper()
	c.isFrom(name)
	c.request(3, "/")
	c.gets(3, name)
}

// migrates has the first hand off all connections, and fails if that is not so many.
func (m *movers) migrates(t *testing.T, n int) {
	t.Helper()
	if d := <-m.handOff(patience); d.Migrated != n || d.Connections != (upgrade.Closed{}) {
		t.Errorf("got %+v, want %d migrated and none closed", d, n)
	}
}

func TestIdleHTTP2ConnectionMigrates(t *testing.T) {
	t.Parallel()
	m := newHTTP2Movers(t)
	c := m.first.dialHTTP2()
	c.rests("first")
	fresh := m.first.dialHTTP2()
	fresh.await("the settings", func() bool { return len(fresh.settings) > 0 })
	m.migrates(t, 2)
	if got := m.second.Load().Connections; got.Active+got.Hijacked != 0 {
		t.Errorf("the successor has %+v, want idle connections", got)
	}
	c.request(5, "/")
	c.gets(5, "second")
	c.request(7, "/")
	c.gets(7, "second")
	fresh.rests("second")
	drained := m.second.drain(patience, all)
	for c, last := range map[*http2Client]uint32{c: 7, fresh: 3} {
		c.toldOnce()
		c.pong()
		c.toldTwice(last)
		c.closes()
	}
	<-drained
}

// Over TLS it is the same, and a handler sees the same of the handshake.
func TestHTTP2OverTLSMigrates(t *testing.T) {
	t.Parallel()
	l := newTLSLine(t)
	opts := func(name string) server.Options {
		return server.Options{Handler: withTLS(t, name), IdleGrace: patience}
	}
	m := &movers{first: l.serve(listen(t), opts("first"), nil), second: l.serve(listen(t), opts("second"), nil)}
	c := newHTTP2Client(t, l.dial(m.first, "h2").Conn)
	c.request(1, "/")
	before, err := c.body(1)
	if err != nil {
		t.Fatal(err)
	}
	c.request(3, "/")
	c.gets(3, before)
	after := strings.Replace(before, "first", "second", 1)
	for stream := uint32(5); stream < 15; stream += 2 {
		m.migrates(t, 1)
		c.request(stream, "/")
		c.gets(stream, after)
		m = &movers{first: m.second, second: l.serve(listen(t), opts("second"), nil)}
	}
	<-m.handOff(patience)
	c.Close()
	m.end()
}

// Wherever the frames of a client are split by the migration, none is lost.
func TestHTTP2MigratesBetweenAnyTwoBytes(t *testing.T) {
	tier.Slow(t, "has a connection for each byte")
	t.Parallel()
	m := newHTTP2MoversWith(t, hang)
	var clients []*http2Client
	var rest [][]byte
	for at := 0; ; at++ {
		c := m.first.dialHTTP2()
		c.rests("first")
		var b bytes.Buffer
		c.fields.Reset()
		c.encode("POST", "/20", "trailer", "sum")
		fr := http2.NewFramer(&b, nil)
		fr.WritePing(false, [8]byte{1})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: c.fields.Bytes(), EndHeaders: true})
		fr.WriteData(5, false, []byte("hello"))
		c.fields.Reset()
		c.pack.WriteField(hpackField("sum", "!"))
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: c.fields.Bytes(), EndHeaders: true, EndStream: true})
		if at == b.Len() {
			break
		}
		if _, err := c.Conn.Write(b.Bytes()[:at]); err != nil {
			t.Fatal(err)
		}
		clients, rest = append(clients, c), append(rest, b.Bytes()[at:])
	}
	drained := m.handOff(hang)
	m.first.awaitDraining()
	for i, c := range clients {
		if _, err := c.Conn.Write(rest[i]); err != nil {
			t.Fatal(err)
		}
	}
	for at, c := range clients {
		if body, err := c.body(5); body != pattern(20) || err != nil || c.acks != 1 || c.trailer != "5!" {
			t.Errorf("split at %d: got %q, %v, %d answers to a PING, and a trailer of %q", at, body, err, c.acks, c.trailer)
		}
		for stream := uint32(7); c.err == nil; stream += 2 {
			c.request(stream, "/")
			if body, err := c.body(stream); err != nil || body == "second" {
				if err != nil {
					t.Errorf("split at %d: %v", at, err)
				}
				break
			}
		}
	}
	if d := <-drained; d.Migrated != len(clients)+1 || d.Connections != (upgrade.Closed{}) {
		t.Errorf("got %+v, want %d migrated", d, len(clients)+1)
	}
	m.end()
}

// What comes late for a stream that has ended in the predecessor is as without a migration.
func TestHTTP2LateFrames(t *testing.T) {
	t.Parallel()
	for _, migrates := range []bool{false, true} {
		t.Run(fmt.Sprint("migrates ", migrates), func(t *testing.T) {
			m := newHTTP2Movers(t)
			name := "first"
			dial := func() *http2Client {
				c := m.first.dialHTTP2()
				c.rests("first")
				c.open(5, "GET", "/100", true)
				c.gets(5, pattern(100))
				return c
			}
			passes, ends := dial(), dial()
			if migrates {
				name = "second"
				m.migrates(t, 2)
			} else {
				defer func() { <-m.handOff(patience) }()
			}
			defer m.end()
			c := passes
			c.WriteWindowUpdate(5, 1000)
			c.WriteRSTStream(5, http2.ErrCodeCancel)
			c.WritePriority(5, http2.PriorityParam{StreamDep: 3})
			c.WritePriority(2000, http2.PriorityParam{StreamDep: 5})
			c.WriteData(5, false, make([]byte, 100))
			c.WriteRawFrame(77, 0, 5, []byte("unknown"))
			c.WriteData(1, true, make([]byte, 16<<10))
			c.request(7, "/")
			c.gets(7, name)
			for range 400 { // more than the window, which is given back
				c.WriteData(3, false, make([]byte, 16<<10))
			}
			c.request(9, "/")
			c.gets(9, name)

			c = ends
			c.request(5, "/")
			if err := c.until("the end", func() bool { return false }); c.failed != http2.ErrCodeProtocol {
				t.Errorf("a request on an old stream: got %v, %v, want a protocol error", c.failed, err)
			}
		})
	}
}

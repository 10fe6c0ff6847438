package server_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
)

// rawFrame returns a frame whose header gives its length as it is, or another one.
func rawFrame(length int, kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	p := []byte{byte(length >> 16), byte(length >> 8), byte(length), byte(kind), byte(flags)}
	return append(binary.BigEndian.AppendUint32(p, stream), payload...)
}

// keepSending writes until that fails. Who reads may write meanwhile.
func keepSending(c *http2Client, pause time.Duration, next func(i int) []byte) {
	for i := 0; ; i++ {
		if _, err := c.Conn.Write(next(i)); err != nil {
			return
		}
		time.Sleep(pause)
	}
}

// What a single connection can make the server hold or do is bounded.
func TestHTTP2Floods(t *testing.T) {
	tier.Slow(t, "waits for clients that do not read")
	t.Parallel()
	field := append([]byte{0x40, 1, 'x', 100}, make([]byte, 100)...) // RFC 7541, section 6.2.1
	copy(field[4:], strings.Repeat("y", 100))
	pings := bytes.Repeat(rawFrame(8, http2.FramePing, 0, 0, make([]byte, 8)), 100)
	resets := func(c *http2Client, first uint32) func(i int) []byte {
		return func(i int) []byte {
			c.fields.Reset()
			c.encode("GET", "/stuck")
			id := first + uint32(2*i)
			return append(rawFrame(c.fields.Len(), http2.FrameHeaders, 5, id, c.fields.Bytes()), rawFrame(4, http2.FrameRSTStream, 0, id, make([]byte, 4))...)
		}
	}
	tests := map[string]struct {
		send func(c *http2Client, first uint32) // requests, on streams from the first one on
		code http2.ErrCode                      // that of the GOAWAY; ErrCodeNo: the client reads nothing

		queues bool // net/http has to answer each of them
	}{
		"CONTINUATIONs": {func(c *http2Client, first uint32) {
			c.Conn.Write(rawFrame(0, http2.FrameHeaders, 0, first, nil))
			block := bytes.Repeat(field, 100)
			keepSending(c, 0, func(int) []byte { return rawFrame(len(block), http2.FrameContinuation, 0, first, block) })
		}, http2.ErrCodeProtocol, false},
		"a frame of 16 MB":  {func(c *http2Client, first uint32) { c.Conn.Write(rawFrame(1<<24-1, http2.FrameHeaders, 4, first, nil)) }, http2.ErrCodeFrameSize, false},
		"a frame too large": {func(c *http2Client, first uint32) { c.Conn.Write(rawFrame(16<<10+1, http2.FrameData, 0, first, nil)) }, http2.ErrCodeFrameSize, false},
		"resets":            {func(c *http2Client, first uint32) { keepSending(c, 0, resets(c, first)) }, http2.ErrCodeEnhanceYourCalm, false},
		"resets after a bit that is reserved": {func(c *http2Client, first uint32) { // RFC 9113, section 4.1
			next := resets(c, first)
			keepSending(c, 0, func(i int) []byte {
				p := next(i)
				if i == 0 {
					p[5] |= 0x80
				}
				return p
			})
		}, http2.ErrCodeEnhanceYourCalm, false},
		"PINGs": {func(c *http2Client, _ uint32) { keepSending(c, 0, func(int) []byte { return pings }) }, http2.ErrCodeEnhanceYourCalm, true},
		"SETTINGS": {func(c *http2Client, _ uint32) {
			settings := bytes.Repeat(rawFrame(0, http2.FrameSettings, 0, 0, nil), 100)
			keepSending(c, 0, func(int) []byte { return settings })
		}, http2.ErrCodeEnhanceYourCalm, true},
		"DATA without data": {func(c *http2Client, first uint32) {
			c.open(first, "POST", "/stuck", false)
			empty := bytes.Repeat(rawFrame(0, http2.FrameData, 0, first, nil), 100)
			keepSending(c, 0, func(int) []byte { return empty })
		}, http2.ErrCodeEnhanceYourCalm, false},
		"PINGs of one that does not read": {func(c *http2Client, first uint32) { keepSending(c, 0, func(int) []byte { return pings }) }, http2.ErrCodeNo, false},
		"mistakes of one that does not read": {func(c *http2Client, first uint32) { // each is answered by a RST_STREAM
			keepSending(c, 0, func(i int) []byte {
				var p []byte
				for id := 200 * i; id < 200*(i+1); id += 2 {
					p = append(p, rawFrame(0, http2.FrameHeaders, 5, first+uint32(id), nil)...)
				}
				return p
			})
		}, http2.ErrCodeNo, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var running, most atomic.Int64
			opts := server.Options{ReadHeaderTimeout: patience, Logger: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				now := running.Add(1)
				for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
				}
				time.Sleep(time.Second) // not all handlers look at their context
				running.Add(-1)
			})}
			runFrom := func(t *testing.T, s *served, dial func() *http2Client, first uint32) {
				c := dial()
				c.await("the server's settings", func() bool { return len(c.settings) > 0 })
				sent := make(chan struct{})
				go func() { defer close(sent); test.send(c, first) }()
				if test.code != http2.ErrCodeNo {
					// If it is slower than the client, net/http ends the connection by itself, and without a GOAWAY.
					if err := c.until("the end", func() bool { return false }); c.failed != test.code && (c.failed != http2.ErrCodeNo || !test.queues) {
						t.Errorf("got a GOAWAY with %v, %v, want %v", c.failed, err, test.code)
					}
				}
				await(t, "the connection's end", func() bool { return s.Closed()[server.Failed] == 1 })
				c.Close()
				<-sent
				if n := most.Load(); n > 250 {
					t.Errorf("%d handlers at once", n)
				}
				begin := time.Now()
				<-s.drain(2*patience, all)
				if took := time.Since(begin); took > 1500*time.Millisecond {
					t.Errorf("the drain took %v, want as long as a handler", took)
				}
			}
			run := func(t *testing.T, s *served, dial func() *http2Client) { runFrom(t, s, dial, 1) }
			runMigrated := func(t *testing.T, m *movers) {
				runFrom(t, m.second, func() *http2Client {
					c := m.first.dialHTTP2()
					c.rests("first")
					m.migrates(t, 1)
					return c
				}, 5)
			}
			first := server.Options{Handler: names("first"), IdleGrace: patience}
			if test.code != http2.ErrCodeNo {
				both(t, opts, run)
				t.Run("migrated", inBubble(func(t *testing.T) { runMigrated(t, memoryMovers(t, first, opts)) }))
			} else {
				s := serveOn(t, smallListener{listen(t)}, opts)
				run(t, s, s.dialHTTP2)
				runMigrated(t, &movers{first: serveOn(t, smallListener{listen(t)}, first), second: serve(t, opts)})
			}
		})
	}
}

// smallListener has connections for which the kernel holds little that is to be sent.
type smallListener struct{ net.Listener }

func (l smallListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		err = nc.(*net.TCPConn).SetWriteBuffer(4 << 10)
	}
	return nc, err
}

// hostility is what a client does that takes no notice of a drain.
type hostility struct {
	do   func(c *http2Client)
	deaf bool          // it reads nothing meanwhile
	ends server.Reason // Announced: soon; Cut: at the deadline, as with HTTP/1.1
}

var hostilities = map[string]hostility{
	"opens streams": {do: func(c *http2Client) {
		keepSending(c, time.Millisecond, func(i int) []byte {
			c.fields.Reset()
			c.encode("GET", "/")
			return rawFrame(c.fields.Len(), http2.FrameHeaders, 5, uint32(2*i+3), c.fields.Bytes())
		})
	}, ends: server.ConnectionClose},
	"opens streams and reads nothing": {deaf: true, do: func(c *http2Client) {
		keepSending(c, time.Millisecond, func(i int) []byte {
			c.fields.Reset()
			c.encode("GET", "/")
			return rawFrame(c.fields.Len(), http2.FrameHeaders, 5, uint32(2*i+3), c.fields.Bytes())
		})
	}, ends: server.ConnectionClose},
	"sends PINGs": {do: func(c *http2Client) {
		keepSending(c, time.Millisecond, func(int) []byte { return rawFrame(8, http2.FramePing, 0, 0, make([]byte, 8)) })
	}, ends: server.ConnectionClose},
	"sends SETTINGS": {do: func(c *http2Client) {
		keepSending(c, time.Millisecond, func(int) []byte { return rawFrame(0, http2.FrameSettings, 0, 0, nil) })
	}, ends: server.ConnectionClose},
	"sends what is unknown": {do: func(c *http2Client) {
		unknown := bytes.Repeat(rawFrame(5, 0x77, 0xff, 9, []byte("hello")), 5) // as many as it may
		keepSending(c, time.Millisecond, func(int) []byte { return unknown })
	}, ends: server.ConnectionClose},
	"answers with a wrong PING": {do: func(c *http2Client) {
		c.Conn.Write(rawFrame(8, http2.FramePing, 1, 0, []byte("whatever")))
	}, ends: server.ConnectionClose},
	"opens no window": {do: func(c *http2Client) {
		c.Conn.Write(rawFrame(6, http2.FrameSettings, 0, 0, []byte{0, byte(http2.SettingInitialWindowSize), 0, 0, 0, 0}))
		c.request(3, "/large")
	}, ends: server.ConnectionClose},
	"opens it byte by byte": {do: func(c *http2Client) {
		c.windows = false
		c.request(3, "/large")
		keepSending(c, 10*time.Millisecond, func(int) []byte { return rawFrame(4, http2.FrameWindowUpdate, 0, 3, []byte{0, 0, 0, 1}) })
	}, ends: server.ConnectionClose},
	"reads nothing": {deaf: true, do: func(c *http2Client) {
		c.Conn.Write(rawFrame(6, http2.FrameSettings, 0, 0, []byte{0, byte(http2.SettingInitialWindowSize), 0x7f, 0xff, 0xff, 0xff}))
		c.Conn.Write(rawFrame(4, http2.FrameWindowUpdate, 0, 0, []byte{0x7f, 0, 0, 0}))
		c.request(3, "/endless")
	}, ends: server.ConnectionClose},
	"sends a body byte by byte": {do: func(c *http2Client) {
		c.open(3, "POST", "/", false)
		keepSending(c, 10*time.Millisecond, func(int) []byte { return rawFrame(1, http2.FrameData, 0, 3, []byte("x")) })
	}, ends: server.DrainTimeout},
}

func TestHTTP2HostileClientsInDrain(t *testing.T) {
	tier.Slow(t, "waits for drains")
	t.Parallel()
	const grace, deadline = 300 * time.Millisecond, 8 * time.Second
	large := pattern(400 << 10)
	want := upgrade.Closed{}
	for _, hostile := range hostilities {
		if hostile.ends == server.DrainTimeout {
			want.DrainTimeout++
		} else {
			want.ConnectionClose++
		}
	}
	both(t, server.Options{IdleGrace: grace, Logger: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/large":
			io.WriteString(w, large)
		case "/endless":
			for {
				if _, err := io.WriteString(w, large); err != nil {
					return
				}
			}
		}
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		var acting sync.WaitGroup
		var ended sync.Map
		var clients []*http2Client
		for name, hostile := range hostilities {
			c := dial()
			c.isFrom("")
			clients = append(clients, c)
			acting.Go(func() { c.until("the end", func() bool { return hostile.deaf }) })
			acting.Go(func() {
				hostile.do(c)
				ended.Store(name, true)
			})
		}
		time.Sleep(50 * time.Millisecond) // they are busy
		begin := time.Now()
		drained := s.drain(deadline, all)
		ends := func() uint64 { closed := s.Closed(); return closed[server.ConnectionClose] + closed[server.TimedOut] }
		for ends() < uint64(want.ConnectionClose) && time.Since(begin) < deadline {
			time.Sleep(5 * time.Millisecond)
		}
		// The grace, a second, and another one for what is still sent; for clients that
		// take nothing of a response a third of the drain.
		if took := time.Since(begin); took > deadline*3/4 {
			var names []string
			for name, hostile := range hostilities {
				if _, over := ended.Load(name); hostile.ends == server.ConnectionClose && !over {
					names = append(names, name)
				}
			}
			t.Errorf("after %v there are still those of a client that %s", took, strings.Join(names, ", or "))
		}
		d := <-drained
		if took := time.Since(begin); took > deadline {
			t.Errorf("took %v, want %v", took, deadline)
		}
		// One that reads nothing ends when its stream has been reset, or its connection closed.
		d.Connections.ConnectionClose, d.Connections.Timeout = d.Connections.ConnectionClose+d.Connections.Timeout, 0
		if d.Connections != want {
			t.Errorf("got %+v, want %+v", d.Connections, want)
		}
		if n := s.Load(); n.Requests != 0 || n.Connections != (upgrade.Connections{}) {
			t.Errorf("left are %+v", n)
		}
		for _, c := range clients {
			c.Close()
		}
		acting.Wait()
	})
}

// A client that says good-bye between the two steps has its answers, and no more.
func TestHTTP2ClientLeavesInDrain(t *testing.T) {
	t.Parallel()
	both(t, server.Options{IdleGrace: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.open(1, "POST", "/", false)
		await(t, "the request", func() bool { return s.Load().Requests == 1 })
		drained := s.drain(2*patience, all)
		c.toldOnce()
		if err := c.WriteGoAway(0, http2.ErrCodeNo, nil); err != nil {
			t.Fatal(err)
		}
		c.toldTwice(1)
		c.pong() // makes no third one
		c.WriteData(1, true, []byte("whole"))
		c.gets(1, "whole")
		c.closes()
		if len(c.goAways) != 2 {
			t.Errorf("got GOAWAY for %d, want two", c.goAways)
		}
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v", d)
		}
	})
}

// A client that ends its side without GOAWAY, or resets, does not hold the drain.
func TestHTTP2ClientGoesInDrain(t *testing.T) {
	t.Parallel()
	var gone chan struct{} // for each handler: the first connection is
	both(t, server.Options{IdleGrace: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		<-gone
		if !errors.Is(context.Cause(r.Context()), context.Canceled) {
			t.Errorf("got %v", context.Cause(r.Context()))
		}
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		gone = make(chan struct{}, 4)
		for range 3 {
			c := dial()
			c.request(1, "/")
			t.Cleanup(func() { c.Close() })
		}
		c := dial()
		c.request(1, "/")
		await(t, "the requests", func() bool { return s.Load().Requests == 4 })
		drained := s.drain(time.Second, all)
		c.toldOnce()
		c.Close()
		await(t, "its connection's end", func() bool { return s.Load().Connections == upgrade.Connections{Active: 3} })
		for range 4 {
			gone <- struct{}{}
		}
		if d := <-drained; d.Requests != 0 || d.Connections != (upgrade.Closed{ConnectionClose: 1, DrainTimeout: 3}) {
			t.Errorf("got %+v, want one gone and three closed forcibly", d)
		}
	})
}

package server_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
)

// newWindow is what either side may send on a new connection.
const newWindow = 65_535

// The windows of both directions go on as they were.
func TestHTTP2Windows(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before int // of a response, which the client does not give back
		given  int // more window, by the client
		stream uint32
	}{
		"zero":                        {before: newWindow},
		"one":                         {before: newWindow - 1},
		"below that of a new one":     {before: 20_000},
		"small, for each stream":      {before: 20_000, stream: 100},
		"none for a stream":           {before: 20_000, stream: 1},
		"that of a new one":           {},
		"above that of a new one":     {given: 200_000},
		"above, and partly used":      {before: 60_000, given: 200_000},
		"the largest that there is":   {given: 1<<31 - 1 - newWindow},
		"the largest, for any stream": {before: 10, given: 1<<31 - 1 - newWindow, stream: 1<<31 - 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newHTTP2Movers(t)
			c := m.first.dialHTTP2()
			c.windows = false
			c.rests("first")
			left := newWindow - test.before + test.given
			if test.given > 0 {
				c.WriteWindowUpdate(0, uint32(test.given))
			}
			if used := 2 * len("first"); test.given < 1<<30 {
				c.WriteWindowUpdate(0, uint32(used))
			} else {
				left -= used
			}
			if test.before > 0 {
				c.open(5, "GET", fmt.Sprint("/", test.before), true)
				c.gets(5, pattern(test.before))
			}
			if test.stream > 0 {
				c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: test.stream})
			}
			m.migrates(t, 1)

			const size = 300_000
			c.open(7, "GET", fmt.Sprint("/", size), true)
			got := func() int { return len(c.bodies[7]) }
			stream := int(test.stream)
			if stream == 0 {
				stream = newWindow
			}
			window := min(left, size, stream)
			c.await("as much as the window has", func() bool { return got() >= window })
			c.WritePing(false, [8]byte{1})
			acks := c.acks
			c.await("the answer to a PING", func() bool { return c.acks > acks })
			if got() != window {
				t.Errorf("got %d bytes, want %d", got(), window)
			}
			c.WriteWindowUpdate(7, size)
			c.await("as much as the connection has", func() bool { return got() >= min(left, size) })
			if left < size {
				c.WriteWindowUpdate(0, size)
			}
			c.gets(7, pattern(size))
			m.end()
		})
	}
}

// An upload may be as long after a migration, and the window for it is as large.
func TestHTTP2UploadWindow(t *testing.T) {
	t.Parallel()
	m := newHTTP2Movers(t)
	c := m.first.dialHTTP2()
	c.rests("first")
	for range 300 { // of streams that are reset by the handler's early end, and less than what is given back at once
		c.WriteData(3, false, make([]byte, 10))
	}
	m.migrates(t, 1)
	c.open(5, "POST", "/10", false)
	for range 16 { // streamWindow
		c.WriteData(5, false, make([]byte, 16<<10))
	}
	c.WriteData(5, true, nil)
	c.gets(5, pattern(10))
	if c.trailer != fmt.Sprint(256<<10) {
		t.Errorf("the handler got %q bytes", c.trailer)
	}
	if got := c.window + newWindow - 3000 - 256<<10; got > 4<<20 || got < 4<<20-64<<10 {
		t.Errorf("the window is %d bytes, want 4 MiB", got)
	}
	m.end()
}

// A client that has changed the size of its header table gets a size update with the next
// header block, wherever that comes from. If it has changed it twice, that begins with the
// smallest: RFC 7541, section 4.2.
func TestHTTP2SettingsThatChange(t *testing.T) {
	t.Run("once", func(t *testing.T) { testSettingsThatChange(t, func(*http2Client) {}) })
	t.Run("twice", func(t *testing.T) {
		testSettingsThatChange(t, func(c *http2Client) { c.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 4096}) })
	})
}

func testSettingsThatChange(t *testing.T, again func(c *http2Client)) {
	m := newHTTP2Movers(t)
	c := m.first.dialHTTP2()
	c.rests("first")
	c.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 20_000})
	c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}, http2.Setting{ID: 0x99, Val: 5})
	again(c)
	m.migrates(t, 1)
	c.open(5, "GET", "/100000", true)
	c.ReadMetaHeaders = nil
	for {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := f.(*http2.HeadersFrame); ok {
			if block := h.HeaderBlockFragment(); block[0] != 0x20 {
				t.Errorf("the header block begins with %x, want a size update to 0", block[0])
			}
			break
		}
	}
	c.Close()
	m.end()
}

// SETTINGS are acknowledged by whoever has the connection, also if they are the first that the client sends there.
func TestHTTP2SettingsAfterMigration(t *testing.T) {
	t.Parallel()
	m := newHTTP2Movers(t)
	fresh, used := m.first.dialHTTP2(), m.first.dialHTTP2()
	fresh.await("the settings of both", func() bool { return len(fresh.settings) > 0 && fresh.agreed == 1 })
	used.rests("first")
	m.migrates(t, 2)
	for _, c := range []*http2Client{fresh, used} {
		for agreed := 2; agreed < 5; agreed++ {
			c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
			c.await("an acknowledgement", func() bool { return c.agreed == agreed })
		}
		c.Close()
	}
	m.end()
}

// A client that does not acknowledge the settings, or has a header table all the same, is
// drained.
func TestHTTP2ThatCannotMigrate(t *testing.T) {
	for name, begin := range map[string]func(c *http2Client){
		"no acknowledgement": func(c *http2Client) { c.noAck = true },
		"a header table":     func(c *http2Client) { c.keepsTable = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memoryMovers(t, server.Options{Handler: names("first")}, server.Options{})
				c := m.first.dialHTTP2()
				begin(c)
				c.rests("first")
				drained := m.handOff(patience)
				c.toldOnce()
				c.request(5, "/")
				c.gets(5, "first")
				c.pong()
				c.toldTwice(5)
				c.closes()
				if d := <-drained; d.Migrated != 0 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
					t.Errorf("got %+v, want one drained", d)
				}
				m.end()
			})
		})
	}
}

// A request that looks like the preface of HTTP/2 is refused as any other without a path.
func TestHTTP2RequestLikeThePreface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: names("first"), IdleGrace: patience}, server.Options{})
		c := m.first.dialHTTP2()
		c.rests("first")
		c.open(5, "PRI", "*", true)
		if body, err := c.body(5); c.statuses[5] != "400" || err != nil {
			t.Errorf("got status %q, %q, %v, want 400", c.statuses[5], body, err)
		}
		m.migrates(t, 1)
		c.request(7, "/")
		c.gets(7, "second")
		c.Close()
		m.end()
	})
}

// A client that has made its only request before it knew the settings goes on with the table
// that it has, or without one.
func TestHTTP2FirstRequestBeforeTheSettings(t *testing.T) {
	t.Parallel()
	for _, keeps := range []bool{false, true} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			t.Run(fmt.Sprint(method, " keeps ", keeps), func(t *testing.T) {
				m := newHTTP2Movers(t)
				c := m.first.dialHTTP2()
				c.keepsTable = keeps
				c.open(1, method, "/10", method != "POST", "cookie", "one", "content-length", "0", "x", strings.Repeat("long", 50))
				if method == "POST" {
					c.WriteData(1, true, nil)
				}
				if body, err := c.body(1); c.statuses[1] != "200" || err != nil {
					t.Fatalf("got status %q, %q, %v", c.statuses[1], body, err)
				}
				for range 2 { // the second time without a request
					m.migrates(t, 1)
					m = &movers{first: m.second, second: serve(t, server.Options{Handler: sizes("second"), IdleGrace: patience})}
				}
				c.open(3, "GET", "/", true, "cookie", "one", "x", strings.Repeat("long", 50))
				c.gets(3, "second")
				c.request(5, "/")
				c.gets(5, "second")
				c.Close()
				<-m.first.drain(patience, all)
				m.end()
			})
		}
	}
}

// Connections migrate again without ever having sent a byte.
func TestHTTP2MigratesAgain(t *testing.T) {
	m := newHTTP2Movers(t)
	c := m.first.dialHTTP2()
	c.rests("first")
	m.migrates(t, 1)
	for range 3 {
		m = &movers{first: m.second, second: serve(t, server.Options{Handler: sizes("second"), IdleGrace: patience})}
		m.migrates(t, 1)
	}
	c.request(5, "/")
	c.gets(5, "second")
	for stream := uint32(7); stream < 13; stream += 2 {
		m = &movers{first: m.second, second: serve(t, server.Options{Handler: sizes("second"), IdleGrace: patience})}
		m.migrates(t, 1)
		c.request(stream, "/")
		c.gets(stream, "second")
	}
	c.Close()
	m.end()
}

// An adopted connection that nobody takes is drained.
func TestAdoptedHTTP2ConnectionEnds(t *testing.T) {
	tier.Slow(t, "waits for drains")
	t.Parallel()
	m := newHTTP2Movers(t)
	c, silent := m.first.dialHTTP2(), m.first.dialHTTP2()
	c.rests("first")
	silent.rests("first")
	m.migrates(t, 2)
	drained := m.second.drain(patience, all)
	for _, c := range []*http2Client{c, silent} {
		c.toldOnce()
		c.pong()
		c.toldTwice(3)
		c.closes()
	}
	if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: 2}) {
		t.Errorf("got %+v, want 2 sent a GOAWAY", d)
	}
}

func TestAdoptedHTTP2ConnectionTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := server.Options{Handler: names("first"), IdleTimeout: time.Minute}
		m := memoryMovers(t, opts, opts)
		c := m.first.dialHTTP2()
		c.rests("first")
		idle := time.Now()
		m.migrates(t, 1)
		c.await("the GOAWAY", func() bool { return len(c.goAways) == 1 })
		if took := time.Since(idle); took != opts.IdleTimeout {
			t.Errorf("the connection was idle for %v, want the timeout of %v, which began before it migrated", took, opts.IdleTimeout)
		}
		c.closes()
		if c.goAways[0] != 3 {
			t.Errorf("got a GOAWAY for %d, want 3", c.goAways[0])
		}
		await(t, "that it has timed out", func() bool { return m.second.Closed()[server.TimedOut] == 1 })
		m.end()
	})
}

// One that is adopted in a drain is drained, silent as it may be.
func TestHTTP2ConnectionAdoptedInADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate() // keeps the drain going
		m := memoryMovers(t, server.Options{Handler: names("first"), IdleGrace: patience}, server.Options{Handler: g})
		c, busy := m.first.dialHTTP2(), m.second.dialHTTP2()
		c.rests("first")
		busy.request(1, "/")
		<-g.entered
		drained := m.second.drain(time.Minute, all)
		m.second.awaitDraining()
		synctest.Wait()
		m.migrates(t, 1)
		c.toldOnce()
		c.pong()
		c.toldTwice(3)
		c.closes()
		close(g.open)
		busy.closes()
		if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: 2}) {
			t.Errorf("got %+v, want 2 sent a GOAWAY", d)
		}
	})
}

// What a client has asked for beyond what it has taken is not forgotten.
func TestHTTP2ExcessMigrates(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	stuck := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stuck" {
			<-r.Context().Done()
		}
	})
	m := &movers{first: serve(t, server.Options{Handler: stuck, Logger: logger, IdleGrace: patience}), second: serve(t, server.Options{Handler: stuck, Logger: logger})}
	c := m.first.dialHTTP2()
	c.rests("")
	stream := uint32(5)
	reset := func(int) []byte { // a request, at once
		c.fields.Reset()
		c.encode("GET", "/stuck")
		p := append(rawFrame(c.fields.Len(), http2.FrameHeaders, 5, stream, c.fields.Bytes()), rawFrame(4, http2.FrameRSTStream, 0, stream, make([]byte, 4))...)
		stream += 2
		return p
	}
	const many = 990 // of 1,000 that are allowed at once
	for i := range many {
		c.Conn.Write(reset(i))
	}
	c.request(stream, "/")
	c.gets(stream, "")
	stream += 2
	m.migrates(t, 1)
	for i := range many {
		c.Conn.Write(reset(i)) // fails when it is too much
	}
	c.Conn.Write(rawFrame(8, http2.FramePing, 0, 0, make([]byte, 8)))
	if err := c.until("an answer to a PING", func() bool { return c.acks > 0 }); c.failed != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("got a GOAWAY with %v, %v, want that it is too much", c.failed, err)
	}
	c.Close()
	m.end()
}

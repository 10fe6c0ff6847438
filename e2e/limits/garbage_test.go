package limits

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Peers that are slow, silent or wrong: each costs its own connection, never the service.

func TestGarbage(t *testing.T) {
	tier.Slow(t, "waits for what never ends")
	t.Parallel()
	noise := make([]byte, 64<<10)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	tests := []struct {
		name string
		send string
		want []int // status of an answer; 0: closed without one
	}{
		{"noise", string(noise), []int{400, 431, 0}},
		{"no HTTP", "hello\r\n\r\n", []int{400}},
		{"TLS", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + strings.Repeat("\x00", 200), []int{400, 0}},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{505, 400, 404, 405, 0}},
		{"unknown version", "GET / HTTP/7.3\r\nHost: a\r\n\r\n", []int{505, 400}},
		{"no host", "GET / HTTP/1.1\r\n\r\n", []int{400}},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", []int{400}},
		{"long target", "GET /" + strings.Repeat("a", 2<<20) + " HTTP/1.1\r\nHost: a\r\n\r\n", []int{431, 414, 400, 0}},
		{"large header", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 2<<20) + "\r\n\r\n", []int{431, 0}},
		{"many fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 300_000) + "\r\n", []int{431, 0}},
		{"bad length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n", []int{400}},
		{"two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", []int{400}},
		{"unknown transfer encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: rot13\r\n\r\n", []int{501, 400}},
		{"bad field name", "GET / HTTP/1.1\r\nHost: a\r\nb d: e\r\n\r\n", []int{400}},
		{"zero byte in a field", "GET / HTTP/1.1\r\nHost: a\r\nb: \x00\r\n\r\n", []int{400}},
	}
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms", "-read-header-timeout", "1s"))
	counts, stop := service.LightLoad(t, b)
	for _, listener := range []struct{ name, network, address string }{
		{"public", b.Network, b.Address}, {"admin", "tcp", b.Admin},
	} {
		for _, tt := range tests {
			c := http1.MustDial(t, listener.network, listener.address)
			c.SetDeadline(time.Now().Add(await.Hang))
			// The server may well close before it has read everything.
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				io.WriteString(c, tt.send)
			}()
			var resp http1.Response
			got := 0
			err := c.ReadHead(&resp)
			if err == nil {
				got = resp.Status
			} else if http1.EndingOf(err) == http1.StillOn {
				t.Errorf("%s, %s: neither an answer nor an end within 10 s", listener.name, tt.name)
			}
			c.Close()
			<-sent
			ok := false
			for _, want := range tt.want {
				ok = ok || got == want
			}
			if !ok {
				t.Errorf("%s, %s: got %d (%v), want one of %v", listener.name, tt.name, got, err, tt.want)
			}
		}
	}
	b.Upgrade()
	service.CheckServes(t, b, 2, b.PID())
	if stop().Failures() != 0 {
		t.Error(counts)
	}
}

// The control socket speaks to anything, and lives.
func TestGarbageOnTheControlSocket(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	counts, stop := service.LightLoad(t, b)
	for i, raw := range []string{
		"", "\n", "upgrade", "\x00\x01\x02\x03", "{", "{}\n", "[]\n", `{"command":"no such thing"}` + "\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		strings.Repeat("a", 8<<20), strings.Repeat("[", 1<<20), strings.Repeat(`{"a":`, 1<<18), "\xff\xff\xff\xff\xff\xff\xff\xff" + strings.Repeat("b", 1<<16),
	} {
		c := http1.MustDial(t, "unix", b.Control)
		c.SetDeadline(time.Now().Add(await.Hang))
		io.WriteString(c, raw)
		c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		if _, err := io.Copy(io.Discard, c.R); http1.EndingOf(err) == http1.StillOn {
			t.Errorf("message %d: still open after a minute", i+1)
		}
		c.Close()
	}
	service.CheckServes(t, b, 1, b.PID())
	b.Upgrade()
	service.CheckServes(t, b, 2, b.PID())
	if stop().Failures() != 0 {
		t.Error(counts)
	}
}

// Many peers that say nothing or half of something, on every listener, through upgrades.
func TestFloods(t *testing.T) {
	tier.Slow(t, "floods every listener")
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "200ms", "-drain-timeout", "3s", "-read-header-timeout", "2s"))
	counts, stop := service.LightLoad(t, b)
	const each = 300
	var held []*http1.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for _, place := range []struct{ network, address string }{{b.Network, b.Address}, {"tcp", b.Admin}, {"unix", b.Control}} {
		for i := range each {
			c, err := http1.Dial(place.network, place.address, await.Hang)
			if err != nil {
				t.Fatalf("%s, connection %d: %v", place.address, i+1, err)
			}
			held = append(held, c)
			c.SetDeadline(time.Now().Add(await.Hang))
			switch i % 3 {
			case 1:
				io.WriteString(c, "GE")
			case 2:
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nslow")
			}
		}
	}
	// Whoever has filled the control socket may keep the command waiting, but not for long; a signal needs no socket.
	b.Signal(syscall.SIGHUP)
	await.Until(t, "an upgrade by signal", func() bool { s, err := b.TryStatus(); return err == nil && s.Generation == 2 })
	var u *service.Upgraded
	if !await.Holds(await.Hang, func() bool { u = b.TryUpgrade(); return u.Code == 0 }) {
		t.Fatalf("upgrade by command: got exit code %d, %s %s", u.Code, u.Stdout, u.Errors)
	}
	b.Upgrade()
	// Half a request may hold a predecessor up to its deadline, but not the upgrades that come after.
	service.CheckServes(t, b, 4, b.AwaitGeneration(4))
	if stop().Failures() != 0 {
		t.Error(counts)
	}
	load.CheckKept(t, counts, service.LightCrowd)
}

// A body as large as the client likes, that nobody asked for, and headers without an end, take no memory.
func TestMemoryIsBounded(t *testing.T) {
	tier.Slow(t, "sends hundreds of megabytes")
	t.Parallel()
	b := service.Start(t, service.Args("-proxy", "/p/="+backend.Start(t, http.HandlerFunc(backend.Sink))), service.Files(t), service.Args("-idle-grace", "100ms"))
	b.Get("/100.bin")
	resident := func() int {
		n, err := strconv.Atoi(strings.TrimSuffix(process.ProcStatus(t, b.PID(), "VmRSS"), " kB"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := resident()
	block := bytes.Repeat([]byte("x"), 1<<20)
	const limit = 32 // MiB that each peer sends
	var wg sync.WaitGroup
	for _, begin := range []string{
		"POST /100.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n",
		"POST /100.bin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n40000000\r\n",
		"POST /p/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: ",
		"GET /",
	} {
		for _, address := range []string{b.Address, b.Admin} {
			c := http1.MustDial(t, "tcp", address)
			c.SetDeadline(time.Now().Add(await.Hang))
			wg.Go(func() {
				defer c.Conn.(*net.TCPConn).CloseWrite()
				io.WriteString(c, begin)
				for range limit {
					if _, err := c.Write(block); err != nil {
						return
					}
				}
			})
			wg.Go(func() { io.Copy(io.Discard, c.R) })
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	highest := 0
	await.Holds(20*time.Second, func() bool {
		highest = max(highest, resident())
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	<-done
	t.Logf("resident memory: %d KiB before, %d KiB at most", before, highest)
	if grown := highest - before; grown > 64<<10 {
		t.Errorf("resident memory: grew by %d KiB, want 64 MiB at most", grown)
	}
	service.CheckServes(t, b, 1, b.PID())
	b.Upgrade()
}

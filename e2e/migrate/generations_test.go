package migrate

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// More than two generations: long requests stay where they began, and upgrades go on past them.

// download is a long response that is read slowly until somebody is in a hurry.
type download struct {
	*http1.Conn
	hurry chan struct{}
	done  chan error
}

// startDownload returns when the header of the response has arrived.
func startDownload(t *testing.T, b *service.Baton, path string, want []byte) *download {
	t.Helper()
	d := &download{Conn: b.Dial(), hurry: make(chan struct{}), done: make(chan error, 1)}
	if err := d.Conn.Conn.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	d.Send(t, string(http1.Request("GET", path, nil)))
	var resp http1.Response
	d.SetDeadline(time.Now().Add(time.Minute))
	if err := d.ReadHead(&resp); err != nil || resp.Status != 200 || resp.Header("Content-Length") != strconv.Itoa(len(want)) {
		t.Fatalf("download: got status %d, %s bytes, %v, want 200, %d", resp.Status, resp.Header("Content-Length"), err, len(want))
	}
	go func() { d.done <- d.read(want) }()
	return d
}

// read takes 8 KiB in 10 ms, and the rest as fast as it comes once it is in a hurry.
func (d *download) read(want []byte) error {
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	buf := make([]byte, 8<<10)
	for at := 0; at < len(want); {
		select {
		case <-pace.C:
		case <-d.hurry:
		}
		n, err := d.R.Read(buf[:min(len(buf), len(want)-at)])
		if !bytes.Equal(buf[:n], want[at:at+n]) {
			return fmt.Errorf("wrong bytes from %d on", at)
		}
		if at += n; err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at, len(want), err)
		}
	}
	return nil
}

// upgradeBySignal upgrades without waiting for the predecessor's end, and returns when whatever comes is the successor's.
func upgradeBySignal(t *testing.T, b *service.Baton) {
	t.Helper()
	pid := b.PID()
	b.Kill(pid, syscall.SIGHUP)
	await.Until(t, "successor that serves", func() bool {
		s := b.Decider() // a connection to the admin listener might be one that migrates
		return s != nil && s.PID != pid && s.PID == b.ReadPID() && s.State == "serving" && len(draining(s)) == len(s.Generations)-1
	})
	b.Follow(b.PID())
}

// draining returns which generations drain, oldest first.
func draining(s *service.Status) (numbers []int) {
	for _, g := range s.Generations {
		if g.State == "draining" {
			numbers = append(numbers, g.Generation)
		}
	}
	return numbers
}

// awaitDraining waits until so many generations drain, no more and no less, and returns which.
func awaitDraining(t *testing.T, b *service.Baton, want int) (numbers []int) {
	t.Helper()
	if !await.Holds(await.Hang, func() bool { numbers = draining(b.Status()); return len(numbers) == want }) {
		t.Fatalf("generations that drain: got %v, want %d of them", numbers, want)
	}
	return numbers
}

// Downloads that began in three generations end whole while the service is upgraded past all of them.
func TestDownloadsFromSeveralGenerations(t *testing.T) {
	tier.Slow(t, "makes slow downloads")
	t.Parallel()
	const size = 32 << 20 // far more than the kernel buffers
	content := exchange.Pattern(size)
	worlds := []struct {
		name    string
		handler func(t *testing.T) (service.Option, string)
	}{
		{"files", func(t *testing.T) (service.Option, string) {
			dir := backend.Directory(t)
			if err := os.WriteFile(filepath.Join(dir, "big.bin"), content, 0o644); err != nil {
				t.Fatal(err)
			}
			return service.Args("-root", dir), "/big.bin"
		}},
		{"proxy", func(t *testing.T) (service.Option, string) {
			return service.Args("-root", backend.Directory(t), "-proxy", "/big="+backend.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", strconv.Itoa(size))
				w.Write(content)
			}))), "/big"
		}},
	}
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			handler, path := w.handler(t)
			b := service.Start(t, handler, service.Patient(), service.Args("-drain-timeout", "1m"))
			kept := b.Dial() // and used throughout
			answered(t, kept)
			var downloads []*download
			var pids []int
			for range 3 {
				downloads, pids = append(downloads, startDownload(t, b, path, content)), append(pids, b.PID())
				upgradeBySignal(t, b)
				answered(t, kept)
			}
			// From here on nothing is left that would keep a predecessor.
			for range 2 {
				u := b.Upgrade()
				if !u.Predecessor.Drained || u.Predecessor.Moved < 1 {
					t.Errorf("upgrade past three that drain: got %+v, want the predecessor drained, and its connection moved", u.Predecessor)
				}
				b.AwaitExit(u.Predecessor.PID)
				answered(t, kept)
			}
			awaitDraining(t, b, 3)
			// A predecessor that answers late, on a busy machine, is reported without its numbers.
			var s *service.Status
			if !await.Holds(await.Hang, func() bool {
				s = b.Status()
				for i, pid := range pids {
					if i >= len(s.Generations) || s.Generations[i].PID != pid || s.Generations[i].RequestsInFlight != 1 {
						return false
					}
				}
				return s.Generation == 6 && slices.Equal(draining(s), []int{1, 2, 3})
			}) {
				t.Errorf("generations: got %+v, want 1, 2, 3 that drain with 1 request in flight each, pids %v, and 6 that serves", s.Generations, pids)
			}
			if got := b.Metric("baton_predecessors"); got != 3 {
				t.Errorf("baton_predecessors: got %v, want 3", got)
			}
			await.Until(t, "requests in flight in all generations, 3 in number", func() bool { return b.Metric("baton_http_requests_in_flight") == 3 })
			code, table, _ := b.Run("status", "-control", b.Control)
			if n := strings.Count(table, "draining"); code != 0 || n != 3 {
				t.Errorf("baton status: got exit code %d, %d generations that drain, want 3:\n%s", code, n, table)
			}
			// The one in the middle first: each leaves the line by itself.
			for n, i := range []int{1, 0, 2} {
				d := downloads[i]
				close(d.hurry)
				if err := <-d.done; err != nil {
					t.Fatalf("download that began in generation %d: %v", i+1, err)
				}
				b.AwaitExit(pids[i])
				// Its connection is now that of the generation that serves: nobody else could answer.
				d.SetDeadline(time.Time{})
				answered(t, d.Conn)
				awaitDraining(t, b, 2-n)
				if got := b.Metric("baton_predecessors"); got != float64(2-n) {
					t.Errorf("baton_predecessors: got %v, want %d", got, 2-n)
				}
			}
			answered(t, kept)
			b.Upgrade()
			for _, c := range []*http1.Conn{kept, downloads[0].Conn, downloads[1].Conn, downloads[2].Conn} {
				answered(t, c)
			}
			service.CheckState(t, b, 7, b.PID())
			service.CheckMigrated(t, b, 5+3+4) // the one that was kept, five times; the others when they ended; and all of them
		})
	}
}

// Beyond -max-draining the trigger waits for a predecessor to be gone, and says so.
func TestMaxDraining(t *testing.T) {
	tier.Slow(t, "holds several generations up")
	t.Parallel()
	for _, limit := range []int{0, 1, 2} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			g := backend.NewGate(t)
			b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-max-draining", strconv.Itoa(limit), "-drain-timeout", "1m"))
			var held []*http1.Conn
			for range limit + 1 { // an upgrade begins while as many drain as the limit says
				c := b.Dial()
				c.Send(t, string(http1.Request("GET", "/hold", nil)))
				g.Await(t, 1)
				held = append(held, c)
				upgradeBySignal(t, b)
			}
			before := limit + 2
			awaitDraining(t, b, limit+1)
			result := b.UpgradeMeanwhile()
			await.Throughout(t, 500*time.Millisecond, "the upgrade waits", func() bool { return b.Status().Generation == before })
			if log := service.WithoutRequests(b.Log()); !regexp.MustCompile(`"upgrade waiting".*"reason":".*still drain`).MatchString(log) {
				t.Errorf("log: nothing says why the upgrade waits:\n%s", service.Tail(log, 5))
			}
			// Any of them will do.
			held[len(held)-1].Close()
			u := result()
			if u.Code != 0 || u.Generation != before+1 {
				t.Errorf("upgrade that waited: got exit code %d, generation %d, want 0, %d", u.Code, u.Generation, before+1)
			}
			awaitDraining(t, b, limit)
			g.Open()
			for _, c := range held[:len(held)-1] {
				if resp := c.Expect(t, "GET", 200); resp.Close || string(resp.Body) != "world" {
					t.Errorf("request that was held: got close %v, body %q, want the connection kept, world", resp.Close, resp.Body)
				}
				c.Send(t, string(http1.Request("GET", "/", nil)))
				if resp := c.Expect(t, "GET", 200); resp.Close {
					t.Error("next request: got Connection: close, want the connection kept")
				}
			}
			service.CheckState(t, b, before+1, b.AwaitGeneration(before+1))
		})
	}
}

// A stop ends when all generations have drained, not only the last two.
func TestStopWithSeveralGenerations(t *testing.T) {
	tier.Slow(t, "holds several generations up")
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-drain-timeout", "1m"))
	var held []*http1.Conn
	var pids []int
	for range 3 {
		c := b.Dial()
		c.Send(t, string(http1.Request("GET", "/begun", nil)))
		g.Await(t, 1)
		held, pids = append(held, c), append(pids, b.PID())
		upgradeBySignal(t, b)
	}
	last := b.PID()
	b.Signal(syscall.SIGTERM)
	await.Until(t, "refusal of new connections", service.Refused(b))
	await.Throughout(t, 300*time.Millisecond, "everybody is there", func() bool { return len(b.Alive()) == 4 })
	g.Open()
	for i, c := range held {
		if resp := c.Expect(t, "GET", 200); string(resp.Body) != "hello, world" {
			t.Errorf("request of generation %d: got body %q, want hello, world", i+1, resp.Body)
		}
		// There is nobody any more to move to.
		c.SetReadDeadline(time.Now().Add(service.DefaultGrace + service.Slack))
		if _, err := io.Copy(io.Discard, c.R); http1.EndingOf(err) != http1.Fin {
			t.Errorf("connection of generation %d: got %s, want FIN", i+1, http1.EndingOf(err))
		}
	}
	stopped := b.AwaitExit(last)
	for i, pid := range pids {
		if p := b.AwaitExit(pid); p.Exited.After(stopped.Exited.Add(service.Slack)) {
			t.Errorf("generation %d: gone %v after the one that was asked to stop, want before it", i+1, p.Exited.Sub(stopped.Exited))
		}
	}
}

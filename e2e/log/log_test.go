package log

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// A log that nobody reads, or whose reader is gone: the service goes on, is upgraded and stopped as ever.

// logTo has the service started with this standard output and error.
func logTo(f *os.File) service.Option { return func(s *service.Setup) { s.Stderr = f } }

// newPipe returns a pipe in blocking mode, as a shell makes it.
func newPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Fd() // sets blocking mode
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// fill makes so many requests that their lines fill a pipe several times.
func fill(t *testing.T, b *service.Baton) {
	t.Helper()
	c := b.Dial()
	for range 1000 {
		c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
		c.Expect(t, "GET", 200)
	}
}

func TestLogThatNobodyReads(t *testing.T) {
	tier.Slow(t, "fills the log")
	t.Parallel()
	r, w := newPipe(t)
	b := service.Start(t, logTo(w), service.Files(t), service.Args("-idle-grace", "50ms"))
	fill(t, b)
	b.Deploy("v2")
	b.Upgrade()
	fill(t, b)
	b.DeployBytes(files.Script("i=0; while [ $i -lt 3000 ]; do echo a line of a long complaint about something >&2; i=$((i+1)); done; exit 3"), 0o755)
	if u := b.TryUpgrade(); u.Code != 1 || u.Result != "failed" {
		t.Errorf("upgrade to a program that prints a lot and exits: got exit code %d, %s %s", u.Code, u.Stdout, u.Errors)
	}
	service.CheckServes(t, b, 2, b.PID())

	// Somebody reads at last: nothing was lost so far, the reason of the failure least of all.
	w.Close()
	found := make(chan bool)
	go func() {
		in := bufio.NewScanner(r)
		in.Buffer(nil, 1<<20)
		has := false
		for in.Scan() && !has {
			has = strings.Contains(in.Text(), "upgrade failed; this generation")
		}
		found <- has
	}()
	select {
	case has := <-found:
		if !has {
			t.Error("the log lacks the failed upgrade")
		}
	case <-time.After(await.Hang):
		t.Error("the log lacks the failed upgrade, and goes on")
	}
	if n := b.Metric("baton_log_dropped_total"); n != 0 {
		t.Errorf("got %v lines dropped, want none: there was room", n)
	}
	fill(t, b) // and nobody reads again
	b.Stop()
}

func TestLogWhoseReaderIsGone(t *testing.T) {
	t.Parallel()
	r, w := newPipe(t)
	b := service.Start(t, logTo(w), service.Files(t), service.Args("-idle-grace", "50ms"))
	w.Close()
	r.Close()
	for n := 1; n <= 3; n++ {
		for range 3 {
			b.Get("/100.bin")
		}
		service.CheckServes(t, b, n, b.PID())
		await.Until(t, "lines that are dropped", func() bool { return b.Metric("baton_log_dropped_total") >= float64(3*n) })
		b.Upgrade()
	}
	b.Signal(syscall.SIGTERM)
	b.AwaitAllGone()
}

// In the journal each line has its priority and neither time nor pid: those of successors too, whose lines come by way of
// their predecessor at first.
func TestLogInTheJournal(t *testing.T) {
	tier.Slow(t, "needs a journal")
	t.Parallel()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(ends[0]), "journal"), os.NewFile(uintptr(ends[1]), "stderr")
	defer r.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(ends[1], &stat); err != nil {
		t.Fatal(err)
	}
	b := service.Start(t, logTo(w), service.Files(t), service.Args("-idle-grace", "50ms", "-log-format", "auto", "-log-level", "debug"), service.Env(fmt.Sprintf("JOURNAL_STREAM=%d:%d", stat.Dev, stat.Ino)))
	w.Close()
	var lines []string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for in := bufio.NewScanner(r); in.Scan(); {
			lines = append(lines, in.Text())
		}
	}()
	b.Get("/100.bin")
	b.Deploy("v2")
	b.Upgrade()
	b.DeployBytes(files.Script(`exec "`+build.Version(t, "v1")+`" -frobnicate`), 0o755)
	u := b.TryUpgrade()
	if !strings.Contains(strings.Join(u.Stderr, "\n"), "baton: unknown flag") || strings.Contains(u.Stdout, "<3>") {
		t.Errorf("failed upgrade: got %s, want the reason without a prefix", u.Stdout)
	}
	b.Stop()
	select {
	case <-ended:
	case <-time.After(await.Hang):
		t.Fatal("the log does not end")
	}
	log := strings.Join(lines, "\n")
	for _, line := range lines {
		if !regexp.MustCompile(`^<[3467]>[a-zA-Z]`).MatchString(line) || strings.Contains(line, "time=") || strings.Contains(strings.ReplaceAll(line, "child pid=", ""), " pid=") {
			t.Errorf("got line %q, want a prefix, a message, and neither time nor pid", line)
		}
	}
	for _, want := range []string{"<6>request method=GET path=/100.bin status=200", "<3>upgrade failed; this generation", "<3>baton: unknown flag"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(log)
	}
}

// The descriptor of standard error must not become that of a client when the garbage collector runs.
func TestLogGoesToNoClient(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Env("GOGC=1"))
	const requests = 200
	for n := range 2 {
		for range requests {
			c := b.Dial()
			c.Send(t, string(http1.Request("GET", "/", nil)))
			c.Expect(t, "GET", 200)
			c.Close()
		}
		await.Until(t, "a line for each request", func() bool {
			return strings.Count(b.Log(), `"msg":"request"`) == (n+1)*requests
		})
		b.Upgrade()
	}
}

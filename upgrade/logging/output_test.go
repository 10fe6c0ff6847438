package logging

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newPipe returns an output to a pipe in blocking mode, as standard error is.
func newPipe(t testing.TB) (o *Output, r *os.File) {
	t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r = os.NewFile(uintptr(ends[0]), "pipe")
	o = NewOutput(ends[1])
	t.Cleanup(func() {
		r.Close() // what is queued fails then
		for !o.await(o.put, time.Minute, time.Minute) {
		}
		unix.Close(ends[1])
	})
	return o, r
}

func jsonTo(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) }

func TestOutputKeepsOrder(t *testing.T) {
	t.Parallel()
	o, r := newPipe(t)
	const lines = 10000
	go func() {
		for n := range lines {
			fmt.Fprintln(o, n)
		}
	}()
	in := bufio.NewScanner(r)
	for n := range lines {
		if in.Scan(); in.Text() != fmt.Sprint(n) {
			t.Fatalf("line %d: got %q", n, in.Text())
		}
	}
	if n := o.Dropped(); n != 0 {
		t.Errorf("got %d dropped, want none", n)
	}
}

// Other processes may write to the same pipe: entries must stay whole among theirs.
func TestOutputWritesWholeEntries(t *testing.T) {
	t.Parallel()
	o, r := newPipe(t)
	other := NewOutput(o.fd)
	const lines = 4000
	for _, out := range []*Output{o, other} {
		go func() {
			for range lines {
				fmt.Fprintln(out, strings.Repeat("x", 299))
			}
		}()
	}
	in := bufio.NewScanner(r)
	for n := range 2 * lines {
		if in.Scan(); len(in.Text()) != 299 {
			t.Fatalf("line %d: got %d bytes, want 299", n, len(in.Text()))
		}
	}
	other.Flush()
}

// A log that nobody reads: no write waits, what does not fit is counted, and the
// reason of a failed upgrade comes through although everything else is full. When
// it is read again it says what it lacks.
func TestOutputThatNobodyReads(t *testing.T) {
	t.Parallel()
	o, r := newPipe(t)
	log := slog.New(o.Handler(jsonTo)).With("pid", 1)
	filler := strings.Repeat("x", 1000)
	for o.Dropped() < 10 {
		log.Info("request", "path", filler)
	}
	log.Error("upgrade failed")
	if n := o.Dropped(); n != 10 {
		t.Errorf("got %d dropped, want the 10 requests", n)
	}
	for _, flush := range []func(){o.Flush, func() { fmt.Fprintln(o.Patient(), filler) }} {
		done := make(chan struct{})
		go func() { defer close(done); flush() }()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatal("the end waits for the log")
		}
	}

	in := bufio.NewScanner(r)
	for in.Scan() && !strings.Contains(in.Text(), "upgrade failed") {
	}
	log.Info("read again")
	if in.Scan(); !strings.Contains(in.Text(), `"level":"WARN","msg":"log lines dropped`) || !strings.Contains(in.Text(), `"lines":11`) {
		t.Errorf("got %s, want a note of 11 lines dropped", in.Text())
	}
	if in.Scan(); !strings.Contains(in.Text(), "read again") {
		t.Errorf("got %s, want the next line", in.Text())
	}
}

func TestOutputWhoseReaderIsGone(t *testing.T) {
	t.Parallel()
	o, r := newPipe(t)
	r.Close()
	log := slog.New(o.Handler(jsonTo))
	for range 5 {
		log.Info("request")
		o.Flush()
	}
	if n := o.Dropped(); n != 5 {
		t.Errorf("got %d dropped, want 5, and no notes that are dropped as well", n)
	}
}

// Somebody who shares standard error may have made it non-blocking.
func TestOutputThatIsNonBlocking(t *testing.T) {
	t.Parallel()
	o, r := newPipe(t)
	if err := unix.SetNonblock(o.fd, true); err != nil {
		t.Fatal(err)
	}
	long := append(bytes.Repeat([]byte("x"), 200<<10), '\n')
	o.Write(long)
	got := make([]byte, len(long))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, long) {
		t.Errorf("got %v, want the long line", err)
	}
}

// What log.Fatal prints must be there when the process ends right afterwards.
func TestPatientWriterReturnsWhenWritten(t *testing.T) {
	t.Parallel()
	o, r := newPipe(t)
	if err := unix.SetNonblock(int(r.Fd()), true); err != nil {
		t.Fatal(err)
	}
	w, late := o.Patient(), 0
	for n := range 100 {
		fmt.Fprintln(w, n)
		if n, err := unix.Read(int(r.Fd()), make([]byte, 100)); n <= 0 || err != nil {
			late++ // as it may be on a machine that is very busy
		}
	}
	if late > 50 {
		t.Errorf("%d of 100 lines were not written when Write returned", late)
	}
}

func BenchmarkLog(b *testing.B) {
	null, err := os.OpenFile(b.TempDir()+"/log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	o := NewOutput(int(null.Fd()))
	for _, bb := range []struct {
		name    string
		handler slog.Handler
	}{{"direct", slog.NewJSONHandler(null, nil)}, {"queued", o.Handler(jsonTo)}} {
		b.Run(bb.name, func(b *testing.B) {
			log := slog.New(bb.handler)
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					log.Info("request", "method", "GET", "path", "/hello.txt", "status", 200, "bytes", 1024, "seconds", 0.001,
						"protocol", "HTTP/1.1", "remote", "127.0.0.1:34567", "request_id", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "user_agent", "wrk/4.1.0")
				}
			})
			o.Flush()
			b.ReportMetric(float64(o.Dropped())/float64(b.N), "dropped/op")
		})
	}
}

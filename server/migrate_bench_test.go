package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

// BenchmarkMigrate reports what it costs to move a silent connection between two
// servers of one process, both sides together, and how long the drain of all
// takes: go test ./server -run xxx -bench Migrate -benchtime 5x
func BenchmarkMigrate(b *testing.B) {
	for _, conns := range []int{100, 500, 1000, 4000, 8000} {
		b.Run(fmt.Sprint(conns), func(b *testing.B) {
			var spent, busy time.Duration
			for b.Loop() {
				b.StopTimer()
				wall, cpu := moveAll(b, conns)
				spent, busy = spent+wall, busy+cpu
				b.StartTimer()
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N*conns), "ns/conn")
			b.ReportMetric(float64(busy.Nanoseconds())/float64(b.N*conns), "cpu-ns/conn")
			b.ReportMetric(float64(spent.Milliseconds())/float64(b.N), "ms/drain")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func moveAll(b *testing.B, conns int) (wall, cpu time.Duration) {
	generation := func() (*server.Server, net.Listener) {
		ln := listen(b)
		s := server.New(server.Options{Handler: http.HandlerFunc(hello), IdleGrace: -1})
		if err := s.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
		s.Add(ln)
		s.Serve()
		return s, ln
	}
	first, ln := generation()
	second, own := generation()
	for range conns {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer nc.Close()
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReaderSize(nc, 16), nil); err != nil {
			b.Fatal(err)
		}
	}
	begin, used := time.Now(), processorTime(b)
	d := first.Drain(b.Context(), upgrade.Handoff{Kept: all, Migrate: func(_ context.Context, conns []upgrade.Connection) []bool {
		taken := make([]bool, len(conns))
		for i, c := range conns {
			c.Conn, c.Listener = dup(b, c.Conn), own
			second.Adopt(c)()
			taken[i] = true
		}
		return taken
	}})
	wall, cpu = time.Since(begin), processorTime(b)-used
	if d.Migrated != conns {
		b.Fatalf("got %+v, want all %d moved", d, conns)
	}
	second.Drain(b.Context(), upgrade.Handoff{Kept: none})
	return wall, cpu
}

package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

// BenchmarkMigrate reports what it costs to move an idle connection between two
// servers of one process, both sides together, and how long the drain of all
// takes: go test ./server -run xxx -bench Migrate -benchtime 5x
func BenchmarkMigrate(b *testing.B) {
	for _, kind := range benchKinds {
		for _, conns := range []int{100, 500, 1000, 4000, 8000} {
			if kind.accounted {
				b.Run(fmt.Sprint(kind.name, "/", conns), func(b *testing.B) { benchmarkMigrate(b, kind, conns) })
			}
		}
	}
}

func benchmarkMigrate(b *testing.B, kind benchKind, conns int) {
	var spent, busy time.Duration
	for b.Loop() {
		b.StopTimer()
		wall, cpu := moveAll(b, kind, conns)
		spent, busy = spent+wall, busy+cpu
		b.StartTimer()
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N*conns), "ns/conn")
	b.ReportMetric(float64(busy.Nanoseconds())/float64(b.N*conns), "cpu-ns/conn")
	b.ReportMetric(float64(spent.Milliseconds())/float64(b.N), "ms/drain")
	b.ReportMetric(0, "ns/op")
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func moveAll(b *testing.B, kind benchKind, conns int) (wall, cpu time.Duration) {
	first, _, dial := kind.serve(b)
	second, own, _ := kind.serve(b)
	for range conns {
		nc, err := dial()
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
	d := first.Drain(b.Context(), upgrade.Handoff{Kept: all, States: true, Migrate: func(_ context.Context, conns []upgrade.Connection) []bool {
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
	return wall, cpu
}

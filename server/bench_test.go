package server_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// The same handler, behind net/http alone and behind the account of connections.
// Compare with: go test ./server -run xxx -bench . -count 10, and benchstat.

func BenchmarkRequest(b *testing.B) {
	for _, kind := range []string{"plain", "accounted"} {
		b.Run(kind, func(b *testing.B) {
			addr := serveKind(b, kind)
			request := []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				nc, err := net.Dial("tcp", addr)
				if err != nil {
					b.Error(err)
					return
				}
				defer nc.Close()
				in := make([]byte, 4096)
				for pb.Next() {
					nc.Write(request)
					if n, err := nc.Read(in); err != nil || string(in[n-5:n]) != "hello" {
						b.Errorf("got %q, %v", in[:n], err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkIdleMemory reports what a connection that is kept open costs the
// whole process, client's end included. It wants a process of its own for each
// kind: go test ./server -run xxx -bench IdleMemory/plain -benchtime 1x
func BenchmarkIdleMemory(b *testing.B) {
	const conns = 4000
	for _, kind := range []string{"plain", "accounted"} {
		b.Run(kind, func(b *testing.B) {
			addr := serveKind(b, kind)
			for b.Loop() {
				open := make([]net.Conn, conns)
				heap, stack := inUse()
				for i := range open {
					nc, err := net.Dial("tcp", addr)
					if err != nil {
						b.Fatal(err)
					}
					open[i] = nc
					io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					http.ReadResponse(bufio.NewReaderSize(nc, 16), nil)
				}
				heapNow, stackNow := inUse()
				b.ReportMetric(float64(heapNow-heap)/conns, "heapB/conn")
				b.ReportMetric(float64(stackNow-stack)/conns, "stackB/conn")
				for _, nc := range open {
					nc.Close()
				}
			}
		})
	}
}

func inUse() (heap, stack uint64) {
	runtime.GC()
	runtime.GC() // the second one empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, m.StackInuse
}

func serveKind(b *testing.B, kind string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	if kind == "plain" {
		// The same limits, since deadlines are a part of the cost.
		plain := &http.Server{Handler: http.HandlerFunc(hello), IdleTimeout: 75 * time.Second,
			ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
		go plain.Serve(ln)
		b.Cleanup(func() { plain.Close() })
	} else {
		s := server.New(server.Options{Handler: http.HandlerFunc(hello), IdleGrace: -1})
		s.Add(ln)
		s.Serve()
		b.Cleanup(func() { s.Drain(b.Context(), upgrade.Handoff{Kept: none}) })
	}
	return ln.Addr().String()
}

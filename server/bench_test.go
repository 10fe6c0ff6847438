package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/server/internal/selfsigned"
	"example.com/baton/upgrade"
)

// The same handler, behind net/http alone and behind the account of connections.
// Compare with: go test ./server -run xxx -bench . -count 10, and benchstat.

func BenchmarkRequest(b *testing.B) {
	for _, kind := range benchKinds {
		b.Run(kind.name, func(b *testing.B) {
			_, _, dial := kind.serve(b)
			request := []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			b.ReportAllocs()
			before := processorTime(b)
			b.RunParallel(func(pb *testing.PB) {
				nc, err := dial()
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
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op") // of both sides, however busy the machine is
		})
	}
}

// BenchmarkIdleMemory reports what a connection that is kept open costs the
// whole process, client's end included. It wants a process of its own for each
// kind: go test ./server -run xxx -bench IdleMemory/plain -benchtime 1x
func BenchmarkIdleMemory(b *testing.B) {
	const conns = 4000
	for _, kind := range benchKinds {
		b.Run(kind.name, func(b *testing.B) {
			_, _, dial := kind.serve(b)
			for b.Loop() {
				open := make([]net.Conn, conns)
				heap, stack := inUse()
				for i := range open {
					nc, err := dial()
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

// benchKind is a server to compare, and how it is reached.
type benchKind struct {
	name            string
	accounted, over bool // by this package; TLS
}

var benchKinds = []benchKind{{"plain", false, false}, {"accounted", true, false}, {"plainTLS", false, true}, {"accountedTLS", true, true}}

// serve returns the server, which is nil if it is not of this package, its listener, and what
// makes connections.
func (k benchKind) serve(b *testing.B) (s *server.Server, ln net.Listener, dial func() (net.Conn, error)) {
	ln = listen(b)
	certificate := selfsigned.New(b, time.Now().Add(time.Hour), "example.com")
	config := &tls.Config{Certificates: []tls.Certificate{certificate.TLS(b)}, NextProtos: []string{"http/1.1"}}
	if k.accounted {
		s = server.New(server.Options{Handler: http.HandlerFunc(hello), IdleGrace: -1})
		if k.over {
			s.AddTLS(ln, config)
		} else {
			s.Add(ln)
		}
		if err := s.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
		s.Serve()
		b.Cleanup(func() {
			if !s.IsDraining() {
				s.Drain(context.Background(), upgrade.Handoff{Kept: none})
			}
		})
	} else {
		// The same limits, since deadlines are a part of the cost.
		plain := &http.Server{Handler: http.HandlerFunc(hello), IdleTimeout: 75 * time.Second,
			ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10, TLSConfig: config}
		if k.over {
			go plain.ServeTLS(ln, "", "")
		} else {
			go plain.Serve(ln)
		}
		b.Cleanup(func() { plain.Close() })
	}
	return s, ln, func() (net.Conn, error) {
		if k.over {
			return tls.Dial("tcp", ln.Addr().String(), certificate.Client())
		}
		return net.Dial("tcp", ln.Addr().String())
	}
}

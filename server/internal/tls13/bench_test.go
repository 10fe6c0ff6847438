package tls13

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reportCPU has a benchmark report the processor time of an operation, which says more than the
// time on a machine that does other things too.
func reportCPU(b *testing.B) (report func()) {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin := used()
	return func() { b.ReportMetric(float64(used()-begin)/float64(b.N), "cpu-ns/op") }
}

// sink is the layer below of one that writes only.
type sink struct{ net.Conn }

func (sink) Write(p []byte) (int, error) { return len(p), nil }

// drained is a connection whose other end reads raw bytes as fast as it can.
func drained(b *testing.B) (client, server net.Conn, read func()) {
	client, server = tcpPair(b)
	return client, server, func() { go io.Copy(io.Discard, client) }
}

// BenchmarkWrite compares what it takes to write with crypto/tls: without the kernel, and over TCP.
func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{1 << 10, 32 << 10, 100 << 10} {
		p := pattern(n)
		run := func(name string, c net.Conn) {
			b.Run(fmt.Sprintf("%s/%dKiB", name, n>>10), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				report := reportCPU(b)
				for b.Loop() {
					if _, err := c.Write(p); err != nil {
						b.Fatal(err)
					}
				}
				report()
			})
		}
		client, server, read := drained(b)
		switched := &switchable{Conn: server}
		std, state := serverOf(b, client, switched)
		read()
		run("tcp/crypto-tls", std)
		switched.Conn = sink{}
		run("memory/crypto-tls", std)

		_, server, read = drained(b)
		read()
		run("tcp/tls13", newConn(b, server, state))
		run("memory/tls13", newConn(b, sink{}, state))
	}
}

// switchable is a layer below that can be changed.
type switchable struct{ net.Conn }

// serverOf performs a handshake and returns the server of crypto/tls.
func serverOf(b *testing.B, client, server net.Conn) (*tls.Conn, State) {
	c, state := handshake(b, server, client) // the other way round: crypto/tls is the client
	return c, state.peer()
}

// BenchmarkUpload compares what it takes to read a stream, as that of a large body.
func BenchmarkUpload(b *testing.B) {
	const n = 1 << 20
	p := pattern(n)
	run := func(name string, write, read net.Conn) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(n)
			b.ReportAllocs()
			report := reportCPU(b)
			got := make([]byte, 32<<10)
			for b.Loop() {
				go write.Write(p)
				for left := n; left > 0; {
					k, err := read.Read(got)
					if err != nil {
						b.Fatal(err)
					}
					left -= k
				}
			}
			report()
		})
	}
	nc, ns := tcpPair(b)
	std, state := serverOf(b, ns, nc)
	run("crypto-tls", newConn(b, ns, state.peer()), std)
	nc, ns = tcpPair(b)
	run("tls13", newConn(b, ns, state.peer()), newConn(b, nc, state))
}

// BenchmarkRead compares what it takes to read records of 1 KiB and 16 KiB.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{100, 1 << 10, 16 << 10} {
		p := pattern(n)
		run := func(name string, write, read net.Conn) {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				got := make([]byte, n)
				report := reportCPU(b)
				for b.Loop() {
					if _, err := write.Write(p); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(read, got); err != nil {
						b.Fatal(err)
					}
				}
				report()
			})
		}
		// The writer is always one of ours: what differs is the reader.
		nc, ns := tcpPair(b)
		std, state := serverOf(b, ns, nc)
		run("tcp/crypto-tls", newConn(b, ns, state.peer()), std)
		nc, ns = tcpPair(b)
		run("tcp/tls13", newConn(b, ns, state.peer()), newConn(b, nc, state))
	}
}

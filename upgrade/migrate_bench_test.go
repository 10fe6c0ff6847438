package upgrade

import (
	"testing"
	"time"
)

// BenchmarkMigrate reports what it costs to migrate a connection over the link, both sides
// together: without a state, with one as TLS has, and with a second socket as well.
func BenchmarkMigrate(b *testing.B) {
	for _, kind := range []string{"plain", "state", "tunnel"} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				m := newMovers(b, MigrationLimit)
				if kind != "plain" {
					peers := m.withState(b, 1000)
					for i := range m.conns {
						if m.conns[i].Peer = nil; kind == "tunnel" {
							m.conns[i].Peer = peers[i/3*3]
						}
					}
				}
				m.succeed()
				b.StartTimer()
				if n := counted(m.move(b.Context(), "here")); n != MigrationLimit {
					b.Fatalf("%d connections were taken, want %d", n, MigrationLimit)
				}
				for len(m.service.all()) < MigrationLimit {
					time.Sleep(50 * time.Microsecond)
				}
				b.StopTimer()
				for i, c := range m.service.all() {
					c.close()
					m.clients[i].Close()
					m.conns[i].close()
				}
				m.ahead.Close()
				m.back.Close()
				m.ln.Close()
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/MigrationLimit, "µs/connection")
		})
	}
}

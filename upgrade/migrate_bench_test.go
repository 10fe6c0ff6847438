package upgrade

import (
	"testing"
	"time"
)

func BenchmarkMigrate(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		m := newMovers(b, MigrationLimit)
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
			c.Close()
			m.clients[i].Close()
			m.conns[i].Close()
		}
		m.ahead.Close()
		m.back.Close()
		m.ln.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/MigrationLimit, "µs/connection")
}

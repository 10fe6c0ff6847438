package load

import (
	"io"
	"net"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

func TestClientRecordsHowSilenceEnds(t *testing.T) {
	tests := []struct {
		name   string
		habit  Habit
		script func(c net.Conn, next func() bool)
		want   http1.Ending
	}{
		{"orderly", Silent, func(net.Conn, func() bool) {}, http1.Fin},
		{"orderly after a request", SilentAfter, func(c net.Conn, next func() bool) { next(); io.WriteString(c, good) }, http1.Fin},
		{"destroyed after a request", SilentAfter, func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); reset(c) }, http1.Rst},
		{"unexpected data", Silent, func(c net.Conn, next func() bool) { io.WriteString(c, good); next() }, http1.MoreData},
		{"never", Silent, func(_ net.Conn, next func() bool) { next() }, http1.StillOn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			accepted := make(chan struct{}, 1000)
			address := scripted(t, func(c net.Conn, next func() bool) {
				select {
				case accepted <- struct{}{}:
				default:
				}
				tt.script(c, next)
			})
			l := Load{Network: "tcp", Address: address, Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, []byte("ok"))}}
			l.Clients[tt.habit] = 2
			counts, stop := Start(t, l)
			if tt.want == http1.StillOn {
				for range 2 {
					<-accepted
				}
			} else {
				await.Until(t, "ended connections", func() bool { return len(counts.Silences()) > 2 })
			}
			stop()
			// The last ones may have been ended by the end of the load instead.
			ended := 0
			for _, s := range counts.Silences() {
				if s.Ending == tt.want {
					ended++
				} else if s.Ending != http1.StillOn {
					t.Errorf("ending: got %s, want %s", s.Ending, tt.want)
				}
			}
			if ended < 2 || counts.Failures() != 0 {
				t.Errorf("got %d connections that ended by %s, want 2 or more, and no failure: %v", ended, tt.want, counts)
			}
		})
	}
}

// An idle connection from which nobody reads any more looks like one that is served, until it is used.
func TestSilentClientHasALastWord(t *testing.T) {
	tests := []struct {
		name     string
		script   func(c net.Conn, next func() bool)
		requests int64
		failure  exchange.Failure // failures if there is none
	}{
		{"answered", func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next(); io.WriteString(c, good) }, 2, exchange.Failures},
		{"not answered", func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next(); next() }, 1, exchange.NotAnswered},
		{"closed instead", func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next() }, 1, exchange.ClosedUnannounced},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Load{Network: "tcp", Address: scripted(t, tt.script), Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, []byte("ok"))},
				Patience: 300 * time.Millisecond, LastWords: true}
			l.Clients[SilentAfter] = 1
			counts, stop := Start(t, l)
			await.Until(t, "the first answer", func() bool { return counts.Answered[SilentAfter].Load() == 1 })
			stop()
			for f := range exchange.Failures {
				if got := counts.Failed[f].Load(); (got == 1) != (f == tt.failure) {
					t.Errorf("%v: got %d, want 1 only where it belongs\n%v", f, got, counts)
				}
			}
			if got := counts.Answered[SilentAfter].Load(); got != tt.requests || counts.Connections[SilentAfter].Load() != 1 {
				t.Errorf("got %v, want %d requests on 1 connection", counts, tt.requests)
			}
		})
	}
}

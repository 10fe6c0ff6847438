package load

import (
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	h2 "example.com/baton/e2e/internal/http2"
)

func TestHTTP2ClientSeesEachFailure(t *testing.T) {
	tests := []struct {
		name     string
		habit    Habit
		script   func(s *http2Script)
		want     exchange.Failure
		patience time.Duration // where it is to run out
	}{
		{name: "end before the header", habit: StreamsPausing, want: exchange.NotAnswered,
			script: func(s *http2Script) { s.next() }},
		{name: "reset before the header", habit: StreamsPausing, want: exchange.NotAnswered,
			script: func(s *http2Script) { s.next(); reset(s.Conn) }},
		{name: "stream reset before the header", habit: Streams, want: exchange.NotAnswered,
			script: func(s *http2Script) {
				for id := s.next(); id > 0; id = s.next() {
					s.WriteRSTStream(id, http2.ErrCodeCancel)
				}
			}},
		{name: "silence", habit: StreamsPausing, want: exchange.NotAnswered, patience: 300 * time.Millisecond,
			script: func(s *http2Script) { s.rest() }},
		{name: "window that stays closed", habit: StreamsPausing, want: exchange.NotAnswered, patience: 300 * time.Millisecond,
			script: func(s *http2Script) {
				s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
				s.rest()
			}},
		{name: "end within the body", habit: StreamsPausing, want: exchange.Truncated,
			script: func(s *http2Script) {
				id := s.next()
				s.begin(id, "200", false)
				s.WriteData(id, false, []byte("o"))
			}},
		{name: "stream reset within the body", habit: StreamsPausing, want: exchange.Truncated,
			script: func(s *http2Script) {
				id := s.next()
				s.begin(id, "200", false)
				s.WriteRSTStream(id, http2.ErrCodeNo)
				s.rest()
			}},
		{name: "refused after it has begun", habit: StreamsPausing, want: exchange.Truncated,
			script: func(s *http2Script) {
				id := s.next()
				s.begin(id, "200", false)
				s.WriteRSTStream(id, http2.ErrCodeRefusedStream)
				s.rest()
			}},
		{name: "server error", habit: StreamsPausing, want: exchange.WrongStatus,
			script: func(s *http2Script) { s.begin(s.next(), "502", true); s.rest() }},
		{name: "no HTTP/2", habit: StreamsPausing, want: exchange.WrongStatus,
			script: func(s *http2Script) { io.WriteString(s.Conn, "HTTP/1.1 400 Bad Request\r\n\r\n"); s.rest() }},
		{name: "GOAWAY with an error", habit: StreamsSilent, want: exchange.WrongStatus,
			script: func(s *http2Script) { s.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil); s.rest() }},
		{name: "GOAWAY for more than before", habit: StreamsSilent, want: exchange.WrongStatus,
			script: func(s *http2Script) { s.goAway(1); s.goAway(3); s.rest() }},
		{name: "answer to a refused stream", habit: Streams, want: exchange.WrongStatus,
			script: func(s *http2Script) {
				id := s.next()
				s.goAway(0)
				s.answer(id, "ok")
				s.rest()
			}},
		{name: "stream refused that is being answered", habit: Streams, want: exchange.WrongStatus,
			script: func(s *http2Script) {
				id := s.next()
				s.begin(id, "200", false)
				s.goAway(0)
				s.rest()
			}},
		{name: "answer to no request", habit: StreamsSilent, want: exchange.WrongStatus,
			script: func(s *http2Script) { s.answer(7, "ok"); s.rest() }},
		{name: "wrong body", habit: StreamsPausing, want: exchange.WrongBody,
			script: func(s *http2Script) { s.answer(s.next(), "ko"); s.rest() }},
		{name: "short body", habit: StreamsPausing, want: exchange.WrongBody,
			script: func(s *http2Script) { s.answer(s.next(), "o"); s.rest() }},
		{name: "end under a request", habit: StreamsPausing, want: exchange.ClosedUnannounced,
			script: func(s *http2Script) { s.answer(s.next(), "ok"); s.next() }},
		{name: "end under the last request that GOAWAY allows", habit: StreamsPausing, want: exchange.ClosedUnannounced,
			script: func(s *http2Script) { s.goAway(s.next()) }},
		{name: "end without GOAWAY between requests", habit: StreamsPausing, want: exchange.ClosedUnannounced,
			script: func(s *http2Script) { s.answer(s.next(), "ok") }},
		{name: "end without GOAWAY of an idle one", habit: StreamsSilent, want: exchange.ClosedUnannounced,
			script: func(s *http2Script) {}},
		{name: "reset after GOAWAY", habit: StreamsSilent, want: exchange.NotAnswered,
			script: func(s *http2Script) { s.goAway(h2.AnyStream); reset(s.Conn) }},
		{name: "end within a frame after GOAWAY", habit: StreamsSilent, want: exchange.NotAnswered,
			script: func(s *http2Script) { s.goAway(h2.AnyStream); s.Conn.Write([]byte{0, 0}) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Load{Network: "tcp", Address: scriptedHTTP2(t, tt.script), Patience: tt.patience, Pause: 200 * time.Millisecond,
				Exchanges: []exchange.Exchange{exchange.New("POST", "/", exchange.Pattern(2*h2.UploadPiece), 200, []byte("ok"))}}
			l.Clients[tt.habit] = 1
			counts, stop := Start(t, l)
			await.Until(t, "a failure", func() bool { return counts.Failures() > 0 })
			stop()
			for f := range exchange.Failures {
				if got := counts.Failed[f].Load(); (got > 0) != (f == tt.want) {
					t.Errorf("%v: got %d, want only %v\n%v", f, got, tt.want, counts)
				}
			}
		})
	}
}

// What a server may do is no failure, and is counted as what it is.
func TestHTTP2ClientAcceptsWhatIsAllowed(t *testing.T) {
	tests := []struct {
		name   string
		habit  Habit
		script func(s *http2Script)
		done   func(*Tally) int64
		warns  bool // before a GOAWAY names a stream
	}{
		{name: "interim answers, and a trailer", habit: StreamsPausing, warns: true,
			script: func(s *http2Script) {
				for id := s.next(); id > 0; id = s.next() {
					s.begin(id, "103", false)
					s.begin(id, "200", false)
					s.WriteData(id, false, []byte("ok"))
					s.begin(id, "200", true)
				}
			},
			done: func(c *Tally) int64 { return c.Answered[StreamsPausing].Load() }},
		{name: "answer before the end of the upload", habit: StreamsPausing, warns: true,
			script: func(s *http2Script) {
				for {
					f, err := s.ReadFrame()
					if err != nil {
						return
					}
					if h, ok := f.(*http2.HeadersFrame); ok {
						s.answer(h.StreamID, "ok")
						s.WriteRSTStream(h.StreamID, http2.ErrCodeNo)
					}
				}
			},
			done: func(c *Tally) int64 { return c.Answered[StreamsPausing].Load() }},
		{name: "refused by GOAWAY", habit: Streams,
			script: func(s *http2Script) {
				for range atATime {
					s.next()
				}
				s.goAway(1)
				s.answer(1, "ok")
			},
			done: func(c *Tally) int64 { return min(c.refused[Streams].Load()/(atATime-1), c.Answered[Streams].Load()) }},
		{name: "refused by a reset", habit: StreamsPausing, warns: true,
			script: func(s *http2Script) {
				for id := s.next(); id > 0; id = s.next() {
					s.WriteRSTStream(id, http2.ErrCodeRefusedStream)
				}
			},
			done: func(c *Tally) int64 { return c.refused[StreamsPausing].Load() }},
		{name: "GOAWAY in two steps", habit: Streams, warns: true,
			script: func(s *http2Script) {
				var open []uint32
				for range atATime {
					open = append(open, s.next())
				}
				s.goAway(h2.AnyStream)
				s.roundTrip()
				s.goAway(slices.Max(open))
				for _, id := range open {
					s.answer(id, "ok")
				}
			},
			done: func(c *Tally) int64 { return min(c.Reconnects[Streams].Load(), c.Answered[Streams].Load()/atATime) }},
		{name: "GOAWAY to one that is silent", habit: StreamsSilent, warns: true,
			script: func(s *http2Script) { s.goAway(h2.AnyStream); s.roundTrip(); s.goAway(0) },
			done:   func(c *Tally) int64 { return int64(len(c.Silences())) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Load{Network: "tcp", Address: scriptedHTTP2(t, tt.script), Pause: time.Millisecond, Patience: time.Second,
				Exchanges: []exchange.Exchange{exchange.New("POST", "/", exchange.Pattern(2*h2.UploadPiece), 200, []byte("ok"))}}
			l.Clients[tt.habit] = 1
			counts, _ := Start(t, l)
			await.Until(t, "the case to come about", func() bool { return tt.done(counts) > 2 })
			// At the end of the load a script may wait for requests that nobody makes any more.
			if counts.Failures() != 0 || (counts.OneStep.Load() == 0) != tt.warns {
				t.Errorf("want no failure, got %d connections that were not warned, %v", counts.OneStep.Load(), counts)
			}
		})
	}
}

// After a GOAWAY no stream is opened on the connection, and a PING is answered behind all that were.
func TestHTTP2ClientObeysGoAway(t *testing.T) {
	late := make(chan uint32, 1)
	address := scriptedHTTP2(t, func(s *http2Script) {
		s.answer(s.next(), "ok")
		s.goAway(h2.AnyStream)
		s.WritePing(false, [8]byte{})
		answered := false
		for {
			f, err := s.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.PingFrame:
				answered = true
			case *http2.HeadersFrame:
				if answered {
					select {
					case late <- f.StreamID:
					default:
					}
				}
				s.answer(f.StreamID, "ok")
			}
		}
	})
	l := Load{Network: "tcp", Address: address, Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, []byte("ok"))}}
	l.Clients[Streams] = 2
	counts, stop := Start(t, l)
	await.Until(t, "reconnects", func() bool { return counts.Reconnects[Streams].Load() > 50 })
	stop()
	select {
	case id := <-late:
		t.Errorf("stream %d after the answer to the PING", id)
	default:
	}
	if counts.Failures()+counts.Refused() != 0 {
		t.Error(counts)
	}
}

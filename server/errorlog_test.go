package server_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"example.com/baton/server"
	"golang.org/x/net/http2"
)

// toldOf is a log of which each record can be awaited.
type toldOf struct {
	slog.Handler
	records chan slog.Record
}

func (l toldOf) Enabled(context.Context, slog.Level) bool { return true }

func (l toldOf) Handle(_ context.Context, r slog.Record) error {
	l.records <- r
	return nil
}

func TestErrorLog(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		do   func(c *http2Client)
		want slog.Level
	}{
		"what a client did": {func(c *http2Client) { c.WriteRawFrame(http2.FrameData, 0, 0, []byte("of no request")) }, slog.LevelDebug},
		"a panic":           {func(c *http2Client) { c.request(1, "/") }, slog.LevelWarn},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := toldOf{slog.DiscardHandler, make(chan slog.Record, 10)}
			opts := server.Options{Logger: slog.New(told), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a bug") })}
			bothOverTCP(t, opts, func(t *testing.T, s *served, dial func() *http2Client) {
				c := dial()
				test.do(c)
				select {
				case r := <-told.records:
					if r.Level != test.want {
						t.Errorf("got %v %q, want it at level %v", r.Level, r.Message, test.want)
					}
				case <-time.After(patience):
					t.Error("nothing is logged")
				}
				c.Close()
				<-s.drain(patience, none)
			})
		})
	}
}

package logging

import (
	"context"
	"io"
	"log/slog"
	"time"
)

// handler is what format has made, twice: entries of level Error go another way.
type handler struct {
	out              *Output
	ordinary, urgent slog.Handler
}

// Handler returns a handler that writes to o what that of format writes, each
// entry with one Write. Entries of level Error or above are dropped last. When
// entries were dropped the log gets a note of it as soon as there is room.
func (o *Output) Handler(format func(io.Writer) slog.Handler) slog.Handler {
	return handler{o, format(o), format(o.urgent())}
}

func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.ordinary.Enabled(ctx, level)
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if n := h.out.takeDropped(); n > 0 && h.Enabled(ctx, slog.LevelWarn) {
		note := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines dropped; they were not read in time, or could not be written", 0)
		note.AddAttrs(slog.Uint64("lines", n))
		h.ordinary.Handle(ctx, note)
	}
	if r.Level >= slog.LevelError {
		return h.urgent.Handle(ctx, r)
	}
	return h.ordinary.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.out, h.ordinary.WithAttrs(attrs), h.urgent.WithAttrs(attrs)}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.out, h.ordinary.WithGroup(name), h.urgent.WithGroup(name)}
}

package systemd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// IsJournal reports whether a descriptor leads to systemd's journal, by JOURNAL_STREAM:
// systemd.exec(5).
func IsJournal(fd int) bool {
	var stat unix.Stat_t
	return unix.Fstat(fd, &stat) == nil && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// Priority returns the prefix that gives a line its priority in the journal:
// sd-daemon(3).
func Priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "<3>"
	case level >= slog.LevelWarn:
		return "<4>"
	case level >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

// withPriority puts the prefix before each entry of another handler.
type withPriority struct {
	slog.Handler // which writes to entry
	entry        *entry
}

type entry struct {
	mu sync.Mutex
	bytes.Buffer
	to io.Writer
}

// WithPriority returns a handler that writes to w what that of format writes, each
// entry after the prefix of its level.
func WithPriority(w io.Writer, format func(io.Writer) slog.Handler) slog.Handler {
	e := &entry{to: w}
	return withPriority{format(&e.Buffer), e}
}

func (h withPriority) Handle(ctx context.Context, r slog.Record) error {
	h.entry.mu.Lock()
	defer h.entry.mu.Unlock()
	h.entry.Reset()
	h.entry.WriteString(Priority(r.Level))
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.entry.to.Write(h.entry.Bytes())
	return err
}

func (h withPriority) WithAttrs(attrs []slog.Attr) slog.Handler {
	return withPriority{h.Handler.WithAttrs(attrs), h.entry}
}

func (h withPriority) WithGroup(name string) slog.Handler {
	return withPriority{h.Handler.WithGroup(name), h.entry}
}

// brief writes the message and key=value for each attribute, in one line. The journal
// has the rest.
type brief struct {
	slog.Handler // of the attributes
	to           io.Writer
	hasAttrs     bool
}

// NewBriefHandler returns a handler for entries that are read in the journal: without
// time and level, which the journal has itself, and with one line for each entry.
func NewBriefHandler(w io.Writer, level slog.Leveler) slog.Handler {
	return brief{slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		_, isLevel := a.Value.Any().(slog.Level)
		if len(groups) == 0 && (a.Key == slog.LevelKey && isLevel || a.Key == slog.MessageKey && a.Value.String() == "") {
			return slog.Attr{}
		}
		return a
	}}), w, false}
}

func (h brief) Handle(ctx context.Context, r slog.Record) error {
	message := r.Message
	if strings.ContainsFunc(message, func(c rune) bool { return !strconv.IsPrint(c) }) {
		message = strconv.Quote(message)
	}
	if h.hasAttrs || r.NumAttrs() > 0 {
		message += " "
	}
	if _, err := io.WriteString(h.to, message); err != nil {
		return err
	}
	attributes := slog.NewRecord(time.Time{}, r.Level, "", 0)
	r.Attrs(func(a slog.Attr) bool { attributes.AddAttrs(a); return true })
	return h.Handler.Handle(ctx, attributes)
}

func (h brief) WithAttrs(attrs []slog.Attr) slog.Handler {
	return brief{h.Handler.WithAttrs(attrs), h.to, h.hasAttrs || len(attrs) > 0}
}

func (h brief) WithGroup(name string) slog.Handler {
	return brief{h.Handler.WithGroup(name), h.to, h.hasAttrs}
}

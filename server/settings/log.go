package settings

import (
	"io"
	"log/slog"
	"os"

	"example.com/baton/systemd"
	"example.com/baton/upgrade/logging"
	"golang.org/x/term"
)

// Log configures the log.
type Log struct {
	Format string // text, json, or auto
	Level  slog.Level
}

// Destination is what standard error leads to.
type Destination string

// Destinations that a format is chosen for. Another one is a file or a pipe.
const (
	Terminal Destination = "terminal"
	Journal  Destination = "journal"
	Another  Destination = "other"
)

// DestinationOf returns what a file descriptor leads to.
func DestinationOf(fd int) Destination {
	switch {
	case term.IsTerminal(fd):
		return Terminal
	case systemd.IsJournal(fd):
		return Journal
	}
	return Another
}

// Logger returns a logger that writes to output, which leads to a destination.
func (l Log) Logger(output *logging.Output, to Destination) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.Level}
	format := func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, options) }
	isBrief := false
	switch {
	case l.Format == "text" || l.Format == "auto" && to == Terminal:
		format = func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, options) }
	case l.Format == "auto" && to == Journal:
		isBrief = true
		format = func(w io.Writer) slog.Handler { return systemd.NewBriefHandler(w, options.Level) }
	}
	if plain := format; to == Journal {
		format = func(w io.Writer) slog.Handler { return systemd.WithPriority(w, plain) }
	}
	logger := slog.New(output.Handler(format))
	if isBrief {
		return logger
	}
	return logger.With("pid", os.Getpid())
}

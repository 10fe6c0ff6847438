package server

import (
	"context"
	"log/slog"
	"slices"
	"strings"
)

// errorLog logs the lines of net/http as warnings, but for those that any client of
// HTTP/2 can cause at will by what it sends. Of HTTP/1.1 there are none such.
type errorLog struct{ log *slog.Logger }

var causedByClients = []string{
	"http2: server connection error ",
	"http2: server closing client connection: ",
	"http2: server: error reading preface ",
	"http2: received GOAWAY ",
	"timeout waiting for SETTINGS ",
}

func (l errorLog) Write(line []byte) (int, error) {
	text, level := strings.TrimSuffix(string(line), "\n"), slog.LevelWarn
	if slices.ContainsFunc(causedByClients, func(begin string) bool { return strings.HasPrefix(text, begin) }) {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, text) //nolint:sloglint // the message is net/http's
	return len(line), nil
}

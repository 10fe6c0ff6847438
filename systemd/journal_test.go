package systemd_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"testing"

	"example.com/baton/systemd"
)

func TestBriefHandler(t *testing.T) {
	var got bytes.Buffer
	log := slog.New(systemd.WithPriority(&got, func(w io.Writer) slog.Handler { return systemd.NewBriefHandler(w, slog.LevelDebug) }))
	log.Info("listening", "address", "[::]:8080")
	log.With("generation", 2).Error("upgrade failed", "error", errors.New("it is broken"), "stderr", "panic: x\n\ngoroutine 1")
	log.Warn("http: panic serving\n<3>forged", "msg", "text", "level", "high")
	log.Debug("x")
	want := `<6>listening address=[::]:8080
<3>upgrade failed generation=2 error="it is broken" stderr="panic: x\n\ngoroutine 1"
<4>"http: panic serving\n<3>forged" msg=text level=high
<7>x
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

package settings_test

import (
	"bufio"
	"log/slog"
	"os"
	"regexp"
	"testing"

	"example.com/baton/server/settings"
	"example.com/baton/upgrade/logging"
)

func TestLogger(t *testing.T) {
	for _, tt := range []struct {
		format string
		to     settings.Destination
		want   string
	}{
		{"auto", settings.Terminal, `^time=\S+ level=WARN msg=hello pid=\d+ n=1$`},
		{"auto", settings.Journal, `^<4>hello n=1$`},
		{"auto", settings.Another, `^\{"time":"[^"]+","level":"WARN","msg":"hello","pid":\d+,"n":1\}$`},
		{"text", settings.Journal, `^<4>time=\S+ level=WARN msg=hello pid=\d+ n=1$`},
		{"text", settings.Another, `^time=\S+ level=WARN msg=hello pid=\d+ n=1$`},
		{"json", settings.Terminal, `^\{"time":"[^"]+","level":"WARN","msg":"hello","pid":\d+,"n":1\}$`},
		{"json", settings.Journal, `^<4>\{"time":"[^"]+","level":"WARN","msg":"hello","pid":\d+,"n":1\}$`},
	} {
		t.Run(tt.format+" to "+string(tt.to), func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			output := logging.NewOutput(int(w.Fd()))
			logger := settings.Log{Format: tt.format, Level: slog.LevelWarn}.Logger(output, tt.to)
			logger.Info("left out")
			logger.Warn("hello", "n", 1)
			in := bufio.NewScanner(r)
			if in.Scan(); !regexp.MustCompile(tt.want).MatchString(in.Text()) {
				t.Errorf("got %s, want %s", in.Text(), tt.want)
			}
			output.Flush()
			w.Close()
			if in.Scan() {
				t.Errorf("got %s too", in.Text())
			}
		})
	}
}

func TestDestinationOf(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if got := settings.DestinationOf(int(w.Fd())); got != settings.Another {
		t.Errorf("got %s for a pipe, want %s", got, settings.Another)
	}
}

package tier

import (
	"runtime"
	"strings"
	"testing"
)

// recorder is a test that is asked to end.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) { r.skipped = format; runtime.Goexit() }

func (r *recorder) Fatalf(format string, args ...any) { r.failed = format; runtime.Goexit() }

// record returns what became of a test that makes a call.
func record(t *testing.T, call func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		call(r)
	}()
	<-done
	return r
}

func TestTiers(t *testing.T) {
	needs := func(t testing.TB) { Needs(t, "a tool", "install it") }
	tool := func(t testing.TB) { Tool(t, "no-such-tool-anywhere") }
	long := func(t testing.TB) { Long(t, "makes 1,000 upgrades") }
	tests := []struct {
		name            string
		strict          string
		call            func(testing.TB)
		skipped, failed string // beginnings of the format
	}{
		{"missing", "", needs, "%s is missing", ""},
		{"missing, strict", "1", needs, "", "%s is missing"},
		{"missing tool", "", tool, "%s is missing", ""},
		{"missing tool, strict", "1", tool, "", "%s is missing"},
		{"tool", "1", func(t testing.TB) { Tool(t, "sh") }, "", ""},
		{"long", "", long, "long: ", ""},
		{"long, strict", "1", long, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("BATON_STRICT", tt.strict)
			r := record(t, tt.call)
			for _, c := range []struct{ what, got, want string }{{"skipped", r.skipped, tt.skipped}, {"failed", r.failed, tt.failed}} {
				if (c.got == "") != (c.want == "") || !strings.HasPrefix(c.got, c.want) {
					t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
				}
			}
		})
	}
}

func TestTimes(t *testing.T) {
	usual := 3
	if testing.Short() {
		usual = 1
	}
	for strict, want := range map[string]int{"": usual, "1": 9} {
		t.Setenv("BATON_STRICT", strict)
		if got := Times(t, "upgrades", 1, 3, 9); got != want {
			t.Errorf("BATON_STRICT=%q: got %d, want %d", strict, got, want)
		}
	}
}

package backends_test

import (
	"os"
	"strings"
	"testing"

	"example.com/baton/handlers/backends"
)

func ExampleReport_WriteTo() {
	report := backends.Report{Waiting: 3, Backends: []backends.Backend{
		{Name: "http://127.0.0.1:3001", Prefixes: []string{"/", "/api/"}, State: "up", InProgress: 12, Requests: map[int]uint64{200: 100, 404: 7, 502: 1}, Errors: 2},
		{Name: "unix:/run/app.sock", Prefixes: []string{"/"}, State: "leaving"},
	}}
	report.WriteTo(os.Stdout)
	// Output:
	// BACKEND                FOR      STATE    REQUESTS  ANSWERED  5XX  ERRORS
	// http://127.0.0.1:3001  / /api/  up       12        108       1    2
	// unix:/run/app.sock     /        leaving  0         0         0    0
	// 3 requests wait for a backend
}

func TestReport(t *testing.T) {
	for waiting, want := range map[int]string{0: "", 1: "1 request waits for a backend\n"} {
		var b strings.Builder
		backends.Report{Waiting: waiting, Backends: []backends.Backend{{}}}.WriteTo(&b)
		if lines := strings.SplitAfter(b.String(), "\n"); len(lines) < 3 || lines[2] != want {
			t.Errorf("%d wait: got %q, want %q at the end", waiting, b.String(), want)
		}
	}
	var b strings.Builder
	backends.Report{Waiting: 1}.WriteTo(&b)
	if b.Len() > 0 {
		t.Errorf("no backends: got %q", b.String())
	}
}

func TestByClass(t *testing.T) {
	got := backends.Backend{Requests: map[int]uint64{101: 1, 200: 2, 299: 3, 304: 4, 404: 5, 500: 6, 599: 7, 600: 8, 99: 9}}.ByClass()
	if want := [...]uint64{1, 5, 4, 5, 13, 17}; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

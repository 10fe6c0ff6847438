package trial

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
)

// badRelease is a release that starts without fault, and fails under traffic.
type badRelease struct {
	name string
	// answer is what its backend answers in place of the right one. The binary is the same, and the configuration
	// is wrong.
	answer http.HandlerFunc
	every  int64  // requests of which one is answered so; 0: all
	below  string // path; empty: all
	// fault is what is wrong with the binary, as e2e/testdata/faulty has it.
	fault string

	slow    bool // its answers are right
	long    bool // it takes half a minute, and is much like another one
	fatal   bool // it dies, or must be killed, and what it has is lost with it
	checked bool // -check finds it
}

var badReleases = []badRelease{
	{name: "500 to all", answer: status(500), checked: true},
	{name: "500 to half", answer: status(500), every: 2},
	{name: "500 to 5 %", answer: status(500), every: 20},
	{name: "500 to 1 %", answer: status(500), every: 100, long: true},
	{name: "500 to /api", answer: status(500), below: "/api"},
	{name: "404 to all", answer: status(404), checked: true},
	{name: "302 to all", answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }},
	{name: "200 without a body", answer: status(200)},
	{name: "hangs on all", answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, checked: true},
	{name: "2 s slower", answer: func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * time.Second):
		case <-r.Context().Done():
		}
		backend.EveryKind(w, r)
	}, slow: true},
	{name: "dies at the first request", fault: "exit 1", fatal: true, checked: true},
	{name: "dies at the hundredth", fault: "exit 100", fatal: true},
	{name: "dies after 0.5 s", fault: "exit 500ms", fatal: true},
	{name: "dies after 3 s", fault: "exit 3s", fatal: true},
	{name: "panics", fault: "panic 10"},
	{name: "deadlocks after 1 s", fault: "deadlock 1s", fatal: true},
	{name: "freezes after 1 s", fault: "freeze 1s", fatal: true, long: true},
	{name: "leaks descriptors", fault: "leak 1"},
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// handler is the backend of the release.
func (r *badRelease) handler() http.Handler {
	var requests atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/ws" && strings.HasPrefix(req.URL.Path, r.below) && (r.every == 0 || requests.Add(1)%r.every == 0) {
			r.answer(w, req)
			return
		}
		backend.EveryKind(w, req)
	})
}

// deploy puts the release in place.
func (r *badRelease) deploy(t *testing.T, b *service.Baton) {
	t.Helper()
	if r.answer != nil {
		b.Configure("proxy /=" + backend.Start(t, r.handler()))
		return
	}
	files.Put(t, []byte(r.fault), filepath.Join(b.Dir, "fault"), 0o600)
	b.Deploy(build.Faulty)
}

package trial

import (
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
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
	// content is what lies in place of a binary.
	content func(t *testing.T) []byte
	// setting is a line of the configuration, in place of the sound one of the same name and prefix. NOBODY stands for
	// an address at which nobody listens.
	setting string

	slow    bool // its answers are right
	fatal   bool // it dies, or must be killed, and what it has is lost with it
	checked bool // -check finds it
	startup bool // it does not come to serve, whatever is asked for
	booted  bool // it takes a unit to have it
	often   bool // it is tried wherever bad releases are; the others unbooted in the strict tier, and booted in a soak
}

var badReleases = []badRelease{
	{name: "500 to all", answer: status(500), checked: true},
	{name: "500 to half", answer: status(500), every: 2, often: true},
	{name: "500 to 5 %", answer: status(500), every: 20},
	{name: "500 to 1 %", answer: status(500), every: 100},
	{name: "500 to /api", answer: status(500), below: "/api"},
	{name: "404 to all", answer: status(404), checked: true},
	{name: "302 to all", answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }},
	{name: "200 without a body", answer: status(200), often: true},
	{name: "hangs on all", answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, checked: true, often: true},
	{name: "2 s slower", answer: func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * time.Second):
		case <-r.Context().Done():
		}
		backend.EveryKind(w, r)
	}, slow: true},
	{name: "dies at the first request", fault: "exit 1", fatal: true, checked: true},
	{name: "dies at the hundredth", fault: "exit 100", fatal: true},
	{name: "dies after 0.5 s", fault: "exit 500ms", fatal: true, often: true},
	{name: "dies after 3 s", fault: "exit 3s", fatal: true},
	{name: "panics", fault: "panic 10"},
	{name: "deadlocks after 1 s", fault: "deadlock 1s", fatal: true},
	{name: "freezes after 1 s", fault: "freeze 1s", fatal: true},
	{name: "leaks descriptors", fault: "leak 1"},
	{name: "leaks memory", fault: "memory 1", booted: true, often: true},
	{name: "wrong proxy target", setting: "proxy /=http://NOBODY", checked: true},
	{name: "another port", setting: "listen NOBODY", booted: true, often: true},
	{name: "fails to start", fault: "fail 0", startup: true},
	{name: "hangs at start", fault: "hang 0", startup: true},
	{name: "wrong architecture", content: func(*testing.T) []byte { return build.ForOtherMachine() }, startup: true},
	{name: "truncated", content: truncated, startup: true},
	{name: "bad configuration", setting: "frobnicate true", startup: true, often: true},
}

func truncated(t *testing.T) []byte {
	content, err := os.ReadFile(build.Version(t, sound))
	if err != nil {
		t.Fatal(err)
	}
	return content[:len(content)/2]
}

// expand returns lines of a configuration with the wrong setting among them.
func (r *badRelease) expand(b *service.Baton, lines ...string) string {
	setting := strings.Replace(r.setting, "NOBODY", net.JoinHostPort(b.Host, service.FreePort(b.T, b.Host)), 1)
	name, _, _ := strings.Cut(setting, " ")
	if i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, name+" ") }); i >= 0 {
		lines[i] = setting
	} else {
		lines = append(lines, setting)
	}
	return strings.Join(lines, "\n") + "\n"
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// handler is the backend of the release.
func (r *badRelease) handler() http.Handler {
	var requests atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/ws" && strings.HasPrefix(req.URL.Path, r.below) && (r.every == 0 || requests.Add(1)%r.every == 0) {
			io.Copy(io.Discard, req.Body) // an answer before the end of a request may end the connection
			r.answer(w, req)
			return
		}
		backend.EveryKind(w, req)
	})
}

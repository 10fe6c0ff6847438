package streams

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/chromedp"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/internal/tier"
)

// The pages in a real browser: what they show through upgrades, and that nothing on them goes wrong.
// With -screenshots=DIR they are also pictured there, light and dark, wide and as on a phone.

var screenshots = flag.String("screenshots", "", "`folder` for pictures of the pages")

// tab is a page in a browser of its own.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	problems []string // of the console
}

// browse opens a page. When the test ends, the console must have no error, and no policy may have been violated.
func browse(t testing.TB, url string) *tab {
	t.Helper()
	p := &tab{t: t}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	p.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(p.listen), chromedp.WithAllocatorOptions(
		chromedp.ExecPath(tier.Need(t, "chromium")), chromedp.Headless,
		chromedp.NoSandbox, // which root cannot have
		chromedp.Flag("disable-dev-shm-usage", true)))
	t.Cleanup(cancel)
	call(p, cdplog.Enable, cdp.Empty{})
	call(p, runtime.Enable, cdp.Empty{})
	call(p, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: "window.violations = []; " +
		`addEventListener("securitypolicyviolation", e => violations.push(e.violatedDirective + " " + e.blockedURI))`})
	call(p, security.SetIgnoreCertificateErrors, security.SetIgnoreCertificateErrorsParams{Ignore: true}) // a test's own
	do(p, chromedp.Navigate(url))
	// Whatever happens from here on happens to the page as it was loaded first.
	eval[string](p, `window.loaded = "once"`)
	return p
}

func (p *tab) listen(event any) {
	problem := func(format string, args ...any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.problems = append(p.problems, fmt.Sprintf(format, args...))
	}
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			problem("console: %s %v", e.Type, e.Args)
		}
	case *runtime.EventExceptionThrown:
		problem("exception: %v", e.ExceptionDetails)
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning {
			problem("log: %s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	}
}

func do[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	value, err := chromedp.Run(p.ctx, action)
	if err != nil {
		p.t.Fatalf("browser: %v; its console: %q", err, p.console())
	}
	return value
}

// call sends a command of the protocol.
func call[P, R any](p *tab, command cdp.Command[P, R], params P) {
	p.t.Helper()
	do(p, func(ctx context.Context, t *chromedp.Target) (any, error) { return cdp.Call(ctx, t, command, params) })
}

func (p *tab) console() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.problems...)
}

// eval returns the value of an expression of the page.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	return do(p, chromedp.Evaluate[T](expression))
}

// text returns what the element with that id shows.
func (p *tab) text(id string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.getElementById(%q).innerText", id))
}

func (p *tab) awaitText(id string, cond func(string) bool) string {
	p.t.Helper()
	var text string
	if !await.Holds(20*time.Second, func() bool { text = p.text(id); return cond(text) }) {
		p.t.Fatalf("#%s: got %q after 20 s; the console: %q", id, text, p.console())
	}
	return text
}

// check ends the test of a page that was loaded once and on which nothing went wrong.
func (p *tab) check() {
	p.t.Helper()
	if got := eval[string](p, `window.loaded ?? "again"`); got != "once" {
		p.t.Errorf("page was loaded %s, want once", got)
	}
	if got := p.console(); len(got) > 0 {
		p.t.Errorf("console: %q, want nothing", got)
	}
	if got := eval[[]string](p, "violations"); len(got) > 0 {
		p.t.Errorf("policy violated: %q", got)
	}
	// That the policy holds, and that this would be seen.
	eval[int](p, `(() => { const s = document.createElement("script"); s.textContent = "window.injected = true"; document.body.append(s); return 0 })()`)
	await.Until(p.t, 10*time.Second, "violation of the policy by a script", func() bool { return eval[int](p, "violations.length") > 0 })
	if eval[bool](p, "window.injected === true") {
		p.t.Error("a script ran that the policy does not have")
	}
}

// picture takes screenshots of the whole page, if they are wanted.
func (p *tab) picture(name string) {
	p.t.Helper()
	if *screenshots == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		for device, width := range map[string]int64{"wide": 1180, "phone": 390} {
			call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 860, DeviceScaleFactor: 2, Mobile: device == "phone"})
			do(p, chromedp.Sleep(700*time.Millisecond)) // for what moves
			png := do(p, chromedp.FullScreenshot(100))
			if err := os.WriteFile(filepath.Join(*screenshots, name+"-"+device+"-"+scheme+".png"), png, 0o644); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

func TestStatusPageInBrowser(t *testing.T) {
	t.Parallel()
	build.Version(t, "v2")
	held := backend.NewGate(t)
	b := service.Start(t, service.Proxied(t), service.Args("-proxy", "/hold/="+backend.Start(t, held), "-upgrade-timeout", "20s"))
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Echo("")}
	l.Clients[load.Pausing] = 10
	l.Clients[load.Silent] = 5
	counts, stop := load.Start(t, l)
	await.Until(t, 20*time.Second, "load", func() bool { return counts.Requests() > 10 })

	p := browse(t, "http://"+b.Admin+"/")
	is := func(want string) func(string) bool { return func(got string) bool { return got == want } }
	has := func(parts ...string) func(string) bool {
		return func(got string) bool {
			for _, part := range parts {
				if !strings.Contains(got, part) {
					return false
				}
			}
			return true
		}
	}
	p.awaitText("generation", is("1"))
	p.awaitText("about", has("version v1", "serving"))
	p.awaitText("link", is("live"))
	p.awaitText("rate", func(got string) bool { return got != "–" && got != "0" })
	p.awaitText("p99", has("ms"))
	p.awaitText("upgrades", is(""))
	p.picture("1-serving")

	// The predecessor has a request to finish.
	waiting := b.Dial()
	waiting.Send(t, string(http1.Request("GET", "/hold/it", nil)))
	held.Await(t, 1)
	b.Deploy("v2")
	upgraded := b.UpgradeMeanwhile()
	p.awaitText("generation", is("2"))
	p.awaitText("about", has("version v2", "serving"))
	p.awaitText("upgrades", has("1 → 2", "succeeded"))
	p.awaitText("rows", has("2v2", "serving", "1v1", "draining · 1 request"))
	p.awaitText("link", is("live"))
	p.picture("2-draining")
	held.Open()
	waiting.Expect(t, "GET", 200)
	if u := upgraded(); u.Code != 0 {
		t.Fatalf("upgrade: got exit code %d, %s", u.Code, u.Stdout)
	}
	p.awaitText("rows", func(got string) bool { return !strings.Contains(got, "draining") })

	// One that is no good, and says so in words that a page must not take for its own.
	b.DeployBytes(files.Script(`echo '<img src=x onerror="window.injected=true"><script>window.injected=true</script> & so on' >&2; exit 1`), 0o755)
	if failed := b.TryUpgrade(); failed.Result != "failed" {
		t.Fatalf("upgrade: got %s, want failed", failed.Result)
	}
	reason := b.Status().Upgrades[1].Reason
	p.awaitText("upgrades", has("2 → 3", "failed", reason))
	if got := eval[int](p, `document.querySelectorAll("img, #upgrades script").length`); got != 0 {
		t.Errorf("%d elements came in with a reason, want none", got)
	}
	p.awaitText("generation", is("2"))

	b.Deploy("v1")
	b.Upgrade()
	p.awaitText("generation", is("3"))
	p.picture("3-after")
	stop()
	if n := counts.Failures(); n != 0 {
		t.Errorf("%d requests lost:\n%v", n, counts)
	}

	// The rate is that of the line: what was counted before an upgrade is not counted again after it.
	var points []struct{ Time, Total float64 }
	if err := json.Unmarshal([]byte(eval[string](p, `JSON.stringify(points)`)), &points); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		if rate := (b.Total - a.Total) / (b.Time - a.Time); b.Total < a.Total || rate > 10/0.02*2 {
			t.Errorf("point %d: total %v after %v, %v requests a second; want no more than what ten clients make", i, b.Total, a.Total, rate)
		}
	}
	made := fmt.Sprint(counts.Requests() + 1) // the one that was held
	p.awaitText("total", func(got string) bool { return strings.ReplaceAll(got, ",", "") == made+" in all" })
	p.check()
}

func TestLivePageInBrowser(t *testing.T) {
	t.Parallel()
	b := service.Start(t)
	p := browse(t, "http://"+b.Address+"/")
	for n := 1; n <= 3; n++ {
		if n > 1 {
			b.Upgrade()
		}
		p.awaitText("generation", func(got string) bool { return got == fmt.Sprint(n) })
		p.awaitText("link", func(got string) bool { return got == "connected" })
	}
	p.picture("live")
	p.check()
}

// A page for whose events there is no place says so, and goes on as soon as there is.
func TestRefusedPagesInBrowser(t *testing.T) {
	t.Parallel()
	b := service.Start(t)
	for _, place := range []struct {
		network, address, live string
		clients                int
	}{
		{b.Network, b.Address, "connected", 100},
		{"tcp", b.Admin, "live", 32},
	} {
		var held []*http1.Conn
		for range place.clients {
			c := http1.MustDial(t, place.network, place.address)
			c.Send(t, "GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
			if err := c.ReadHead(new(http1.Response)); err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
		}
		p := browse(t, "http://"+place.address)
		p.awaitText("link", func(text string) bool { return strings.Contains(text, "too many") })
		for _, c := range held {
			c.Close()
		}
		p.awaitText("link", func(text string) bool { return text == place.live })
	}
}

// The event streams of a browser go on over upgrades: what each generation says of itself comes once, and
// of what a backend numbers nothing is lost and nothing comes twice.
func TestEventSourceInBrowser(t *testing.T) {
	for _, tt := range []struct {
		name     string
		secure   bool // and in HTTP/2
		upgrades int
		test     func(t *testing.T, secure bool, upgrades int)
	}{
		{"live page", false, 10, eventsOfLivePage},
		{"live page over TLS", true, 5, eventsOfLivePage},
		{"backend", false, 10, eventsOfBackend},
		{"backend over TLS", true, 5, eventsOfBackend},
	} {
		t.Run(tt.name, func(t *testing.T) { t.Parallel(); tt.test(t, tt.secure, tt.upgrades) })
	}
}

// openTab opens the first page of a service.
func openTab(o service.Over, t testing.TB, b *service.Baton) *tab {
	t.Helper()
	p := browse(t, o.Url("http", b, "/"))
	if got := eval[string](p, `performance.getEntriesByType("navigation")[0].nextHopProtocol`); (got == "h2") != (o.Config != nil) {
		t.Errorf("browser speaks %s, want h2 over TLS only", got)
	}
	return p
}

// noteEvents notes events: what has come, in order, and how often the stream was opened.
const noteEvents = `(() => {
	window.came = []; window.opened = 0;
	const events = new EventSource("events");
	events.onopen = () => opened++;
	for (const name of ["message", "identity"]) events.addEventListener(name, e => came.push(JSON.parse(e.data)));
	return 0;
})()`

func eventsOfLivePage(t *testing.T, secure bool, upgrades int) {
	way, clientsWay := service.PlainOrSecured(t, secure)
	b := service.Start(t, way)
	p := openTab(clientsWay, t, b)
	eval[int](p, noteEvents)
	for n := 1; n <= 1+upgrades; n++ {
		if n > 1 {
			b.Upgrade()
		}
		if !await.Holds(20*time.Second, func() bool { return eval[int](p, "came.length") >= n }) {
			t.Fatalf("after %d upgrades: got events %s, and the stream opened %d times", n-1, eval[string](p, "JSON.stringify(came)"), eval[int](p, "opened"))
		}
		p.awaitText("generation", func(got string) bool { return got == fmt.Sprint(n) })
	}
	var came []struct{ Generation, PID int }
	if err := json.Unmarshal([]byte(eval[string](p, "JSON.stringify(came)")), &came); err != nil {
		t.Fatal(err)
	}
	if len(came) != 1+upgrades {
		t.Errorf("got %d events, want one of each of %d generations", len(came), 1+upgrades)
	}
	for i, event := range came {
		if event.Generation != i+1 {
			t.Errorf("event %d: got generation %d, want %d", i, event.Generation, i+1)
		}
	}
	if got := eval[int](p, `document.querySelectorAll("#changes li").length`); got != min(1+upgrades, 10) { // as many as it shows
		t.Errorf("page shows %d changes, want one for each generation, but ten at most", got)
	}
	p.check()
}

func eventsOfBackend(t *testing.T, secure bool, upgrades int) {
	way, clientsWay := service.PlainOrSecured(t, secure)
	b := service.Start(t, way, service.Args("-stream-grace", "300ms", "-proxy", "/="+backend.Start(t, pageWith("/events", numbers))))
	p := openTab(clientsWay, t, b)
	eval[int](p, noteEvents)
	for n := range upgrades {
		opened := n + 1
		await.Until(t, 20*time.Second, "stream", func() bool { return eval[int](p, "opened") >= opened })
		u := b.Upgrade()
		if u.Predecessor.Connections.Cut != 0 {
			t.Errorf("upgrade %d: report %+v, want nothing cut", n+1, u.Predecessor)
		}
	}
	await.Until(t, 20*time.Second, "stream", func() bool { return eval[int](p, "opened") > upgrades })
	before := eval[int](p, "came.length")
	await.Until(t, 20*time.Second, "more events", func() bool { return eval[int](p, "came.length") > before })
	var came []struct{ Number int }
	if err := json.Unmarshal([]byte(eval[string](p, "JSON.stringify(came)")), &came); err != nil {
		t.Fatal(err)
	}
	for i, event := range came {
		if event.Number != i+1 {
			t.Fatalf("event %d: got number %d, want each once and in order", i, event.Number)
		}
	}
	if got := eval[int](p, "opened"); got != 1+upgrades {
		t.Errorf("stream was opened %d times in %d upgrades, want once for each generation", got, upgrades)
	}
	if got := p.console(); len(got) > 0 {
		t.Errorf("console: %q, want nothing", got)
	}
}

// pageWith is a page, and what it lives on at a path.
func pageWith(path string, rest http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			rest(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<!doctype html><link rel="icon" href="data:,"><h1>page</h1>`)
	})
}

// A browser on a page that came in HTTP/2 opens its WebSockets in HTTP/1.1. Each is closed with 1001, which is clean.
func TestWebSocketInBrowser(t *testing.T) {
	t.Parallel()
	const upgrades = 3
	way, clientsWay := service.Secured(t)
	b := service.Start(t, way, service.Args("-websocket-grace", "200ms", "-proxy", "/="+backend.Start(t, pageWith("/ws", webSocketEcho))))
	p := openTab(clientsWay, t, b)
	eval[int](p, `(() => {
		window.sent = 0; window.came = 0; window.opened = 0; window.ends = [];
		const connect = () => {
			const socket = new WebSocket("/ws");
			const say = () => { sent++; socket.send("x".repeat(1000)) };
			socket.onopen = () => { opened++; say() };
			socket.onmessage = () => { came++; setTimeout(() => { if (socket.readyState === WebSocket.OPEN) say() }, 5) };
			socket.onclose = e => { ends.push(e.code + " " + e.wasClean); connect() };
		};
		connect();
		return 0;
	})()`)
	for n := range upgrades {
		await.Until(t, 20*time.Second, "echoes of a new WebSocket", func() bool { return eval[bool](p, fmt.Sprintf("opened > %d && came > %d", n, 10*n)) })
		if u := b.Upgrade(); u.Predecessor.Connections.Cut != 0 {
			t.Errorf("upgrade %d: report %+v, want nothing cut", n+1, u.Predecessor)
		}
	}
	await.Until(t, 20*time.Second, "WebSocket of the last generation", func() bool { return eval[int](p, "opened") > upgrades })
	if got, want := eval[string](p, `ends.join()`), strings.TrimSuffix(strings.Repeat("1001 true,", upgrades), ","); got != want {
		t.Errorf("WebSockets ended with %s, want %s", got, want)
	}
	if got := p.console(); len(got) > 0 {
		t.Errorf("console: %q, want nothing", got)
	}
}

package streams

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/chromedp"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The pages in a real browser: what they show through upgrades, and that nothing on them goes wrong.
// With -screenshots=DIR they are also pictured there, light and dark, wide and as on a phone.

var screenshots = flag.String("screenshots", "", "`directory` for pictures of the pages")

// tab is a page in a profile of its own.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu        sync.Mutex
	problems  []string // of the console
	responses []response
}

// browser is that of all tests of the package: to start one costs more than most of them. It is started by the first that
// asks, and ended by endBrowser.
var browser struct {
	sync.Once
	ctx    context.Context
	cancel context.CancelFunc
	err    error
}

func startBrowser(t testing.TB) context.Context {
	t.Helper()
	path := tier.Tool(t, "chromium")
	browser.Do(func() {
		browser.ctx, browser.cancel = chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(
			chromedp.ExecPath(path), chromedp.Headless,
			chromedp.NoSandbox, // which root cannot have
			chromedp.Flag("disable-dev-shm-usage", true)))
		_, browser.err = chromedp.Run(browser.ctx, chromedp.Navigate("about:blank"))
	})
	if browser.err != nil {
		t.Fatalf("browser: %v", browser.err)
	}
	return browser.ctx
}

// endBrowser ends the browser when the tests are over.
func endBrowser() {
	if browser.cancel == nil {
		return
	}
	ctx, cancel := context.WithTimeout(browser.ctx, time.Minute)
	defer cancel()
	chromedp.Cancel(ctx)
}

// browse opens a page. When the test ends, the console must have no error, and no policy may have been violated.
func browse(t testing.TB, url string) *tab {
	t.Helper()
	tier.Slow(t, "starts a browser")
	p := &tab{t: t}
	ctx, cancel := context.WithTimeout(startBrowser(t), 4*time.Minute)
	t.Cleanup(cancel)
	p.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(p.listen))
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
	case *network.EventResponseReceived:
		p.noteResponse(e)
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

// holds says whether cond, which asks the browser, came true in time. It is asked less often than await asks, since each
// question costs the browser a millisecond of all its processes.
func holds(cond func() bool) bool {
	return await.Holds(await.Hang, func() bool {
		if cond() {
			return true
		}
		time.Sleep(30 * time.Millisecond)
		return false
	})
}

// await waits until cond, which asks the browser, comes true.
func (p *tab) await(what string, cond func() bool) {
	p.t.Helper()
	if !holds(cond) {
		p.t.Fatalf("no %s within %v; the console: %q", what, await.Hang, p.console())
	}
}

func (p *tab) awaitText(id string, cond func(string) bool) string {
	p.t.Helper()
	var text string
	if !holds(func() bool { text = p.text(id); return cond(text) }) {
		p.t.Fatalf("#%s: got %q after %v; the console: %q", id, text, await.Hang, p.console())
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
	p.await("violation of the policy by a script", func() bool { return eval[int](p, "violations.length") > 0 })
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

// openTab opens the first page of a service.
func openTab(o service.Over, t testing.TB, b *service.Baton) *tab {
	t.Helper()
	p := browse(t, o.URL("http", b, "/"))
	if got := eval[string](p, `performance.getEntriesByType("navigation")[0].nextHopProtocol`); (got == "h2") != (o.Config != nil) {
		t.Errorf("browser speaks %s, want h2 over TLS only", got)
	}
	return p
}

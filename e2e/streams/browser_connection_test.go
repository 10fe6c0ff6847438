package streams

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// response is what the browser itself has noted of one.
type response struct {
	url, protocol string
	connection    float64
}

// visitPage does all that a page may do at once, again and again: downloads, uploads, and messages of a WebSocket.
const visitPage = `(() => {
	window.answered = 0; window.echoed = 0; window.opened = 0; window.wrong = []; window.paths = new Set();
	const pattern = n => { let s = ""; for (let i = 0; s.length < n; i++) s += i + ","; return s.slice(0, n) };
	const ask = async (path, want, init) => {
		for (;;) {
			try {
				const r = await fetch(path, init), text = await r.text();
				if (r.status !== 200 || text !== want) wrong.push(path + ": " + r.status + ", " + text.length + " bytes");
				answered++; paths.add(path);
				await new Promise(r => setTimeout(r, 20)); // the browser's account of it takes longer than a request
			} catch (e) { wrong.push(path + ": " + e); await new Promise(r => setTimeout(r, 100)) }
		}
	};
	const large = pattern(100000), upload = pattern(100000);
	ask("/fixed/1000", pattern(1000)); ask("/drip/100000", large); ask("/echo", upload, { method: "POST", body: upload });
	const socket = new WebSocket("/ws");
	let sent = "";
	const say = () => window.silent ? setTimeout(say, 20) : socket.send(sent = pattern([1, 125, 126, 70000][echoed % 4]));
	socket.onopen = () => { opened++; say() };
	socket.onmessage = e => { if (e.data !== sent) wrong.push("message of " + e.data.length); echoed++; setTimeout(say, 20) };
	socket.onclose = e => wrong.push("WebSocket closed: " + e.code + " " + e.wasClean);
	return 0;
})()`

// A browser makes all its requests of a page, before and after upgrades, on the same connections: by its own account it
// is one in HTTP/2, and in HTTP/1.1 as many as it makes requests at a time. Its WebSocket stays open.
func TestBrowserKeepsItsConnections(t *testing.T) {
	for _, secure := range []bool{true, false} {
		t.Run(map[bool]string{true: "HTTP/2 over TLS", false: "HTTP/1.1"}[secure], func(t *testing.T) {
			browserKeepsItsConnections(t, secure)
		})
	}
}

func browserKeepsItsConnections(t *testing.T, secure bool) {
	upgrades := *tier.Soak
	if upgrades == 0 {
		upgrades = tier.Times(t, "upgrades", 1, 3, 5)
	}
	way, clientsWay := service.PlainOrSecured(t, secure)
	page := pageWith("", nil)
	b := service.Start(t, way, service.Patient(), service.Args("-idle-grace", "2m", "-drain-timeout", "5m", "-proxy", "/="+backend.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/page" {
			page.ServeHTTP(w, r)
			return
		}
		backend.EveryKind(w, r)
	}))))
	p := browse(t, clientsWay.URL("http", b, "/page"))
	eval[int](p, visitPage)
	progress := func() {
		t.Helper()
		answered, echoed := eval[int](p, "answered"), eval[int](p, "echoed")
		if !await.Holds(await.Hang, func() bool {
			time.Sleep(100 * time.Millisecond) // the page has more to do than to answer this
			return eval[bool](p, fmt.Sprintf("answered > %d && echoed > %d && paths.size === 3", answered+20, echoed+5))
		}) {
			t.Fatalf("browser: %d requests, %d messages answered, then none; %s", answered, echoed, eval[string](p, "wrong.join()"))
		}
	}
	progress()
	accepted := b.Metric("baton_connections_accepted_total")
	connections := func() map[float64]string {
		t.Helper()
		// Of a WebSocket the browser would report every message whole.
		eval[bool](p, "window.silent = true")
		call(p, network.Enable, network.EnableParams{})
		for range 2 { // the header of the first answer of each kind may have come before
			eval[bool](p, "paths.clear() ?? true")
			p.await("response of each kind", func() bool { return eval[bool](p, "paths.size === 3") })
		}
		call(p, network.Disable, cdp.Empty{})
		eval[bool](p, "window.silent = false")
		return p.connections(b.Address)
	}
	before := connections()
	atATime := 3 // requests on connections of their own
	if secure {
		atATime = 1
	}
	for i := range upgrades {
		u := b.Upgrade()
		if c := u.Predecessor.Connections; c != (service.Connections{}) {
			t.Errorf("upgrade %d: closed %+v, want all migrated", i+1, c)
		}
		progress()
	}
	after := connections()
	all := maps.Clone(before)
	maps.Copy(all, after)
	if len(all) > atATime {
		t.Errorf("browser: has connected again: got connections %v, then %v, want %d for all", before, after, atATime)
	}
	// In HTTP/1.1 a browser may find all connections busy at any time. The WebSocket has one, too.
	if got := b.Metric("baton_connections_accepted_total"); got > max(accepted, float64(atATime+1)) {
		t.Errorf("connections accepted: got %v, want the %v of the beginning, or what the page needs", got, accepted)
	}
	if got := eval[string](p, "wrong.join()"); got != "" || eval[int](p, "opened") != 1 {
		t.Errorf("page: got %s, and %d WebSockets, want 1 and nothing wrong", got, eval[int](p, "opened"))
	}
	if got := p.console(); len(got) > 0 {
		t.Errorf("console: %q, want nothing", got)
	}
	t.Logf("%d upgrades, %d responses, %d messages; connections %v", upgrades, eval[int](p, "answered"), eval[int](p, "echoed"), after)
}

// connections are those on which responses have come while they were noted, with their protocol.
func (p *tab) connections(address string) map[float64]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[float64]string)
	for _, r := range p.responses {
		if strings.Contains(r.url, address) {
			all[r.connection] = r.protocol
		}
	}
	return all
}

// noteResponse notes a response. Without Network.enable there are none.
func (p *tab) noteResponse(e *network.EventResponseReceived) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.responses = append(p.responses, response{e.Response.URL, e.Response.Protocol, e.Response.ConnectionID})
}

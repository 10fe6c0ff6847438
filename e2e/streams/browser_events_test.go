package streams

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The event streams of a browser go on over upgrades: what each generation says of itself comes once, and
// of what a backend numbers nothing is lost and nothing comes twice.
func TestEventSourceInBrowser(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		secure   bool // and in HTTP/2
		upgrades int
		test     func(t *testing.T, secure bool, upgrades int)
	}{
		{"live page", false, 10, eventsOfLivePage},
		{"live page over TLS", true, 3, eventsOfLivePage},
		{"backend", false, 5, eventsOfBackend},
		{"backend over TLS", true, 3, eventsOfBackend},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, tt.secure, tier.Times(t, "upgrades", 1, 3, tt.upgrades))
		})
	}
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
		if !holds(func() bool { return eval[int](p, "came.length") >= n }) {
			t.Fatalf("after %d upgrades: got events %s, and the stream opened %d times", n-1, eval[string](p, "JSON.stringify(came)"), eval[int](p, "opened"))
		}
		p.awaitText("generation", func(got string) bool { return got == fmt.Sprint(n) })
		p.awaitText("link", func(got string) bool { return got == "connected" })
	}
	p.picture("live")
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
		p.await("stream", func() bool { return eval[int](p, "opened") >= opened })
		u := b.Upgrade()
		if u.Predecessor.Connections.Cut != 0 {
			t.Errorf("upgrade %d: report %+v, want nothing closed forcibly", n+1, u.Predecessor)
		}
	}
	p.await("stream", func() bool { return eval[int](p, "opened") > upgrades })
	before := eval[int](p, "came.length")
	p.await("more events", func() bool { return eval[int](p, "came.length") > before })
	var came []struct{ Number int }
	if err := json.Unmarshal([]byte(eval[string](p, "JSON.stringify(came)")), &came); err != nil {
		t.Fatal(err)
	}
	for i, event := range came {
		if event.Number != i+1 {
			t.Fatalf("event %d: got number %d, want each once and in order", i, event.Number)
		}
	}
	// On a busy machine the predecessor may read the request for the next stream before its connection moves.
	// It ends that one too, and at once, but does not read a third.
	if got := eval[int](p, "opened"); got < 1+upgrades || got > 1+2*upgrades {
		t.Errorf("stream was opened %d times in %d upgrades, want once for each generation, or twice", got, upgrades)
	}
	if got := p.console(); len(got) > 0 {
		t.Errorf("console: %q, want nothing", got)
	}
}

// A browser on a page that came in HTTP/2 opens its WebSockets in HTTP/1.1. One that does not migrate is closed with 1001
// in each upgrade, which is clean. One that does is in TestBrowserKeepsItsConnections.
func TestWebSocketInBrowserIsDrained(t *testing.T) {
	t.Parallel()
	const upgrades = 3
	way, clientsWay := service.Secured(t)
	b := service.Start(t, way, service.Args("-migrate=false", "-websocket-grace", "200ms", "-proxy", "/="+backend.Start(t, pageWith("/ws", webSocketEcho))))
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
		p.await("echoes", func() bool { return eval[bool](p, fmt.Sprintf("opened > %d && came > %d", n, 10*n)) })
		if u := b.Upgrade(); u.Predecessor.Connections.Cut != 0 {
			t.Errorf("upgrade %d: report %+v, want nothing closed forcibly", n+1, u.Predecessor)
		}
	}
	came := eval[int](p, "came")
	p.await("echoes of the last generation", func() bool {
		return eval[bool](p, fmt.Sprintf("opened == %d && came > %d && sent - came < %d", upgrades+1, came+10, upgrades+2))
	})
	if got, want := eval[string](p, `ends.join()`), strings.TrimSuffix(strings.Repeat("1001 true,", upgrades), ","); got != want {
		t.Errorf("WebSockets ended with %s, want %s", got, want)
	}
	if got := p.console(); len(got) > 0 {
		t.Errorf("console: %q, want nothing", got)
	}
}

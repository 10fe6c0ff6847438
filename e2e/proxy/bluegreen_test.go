package proxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
)

// color is a backend that says which it is at /color, and answers 500 to all else if it is broken.
func color(t *testing.T, name string, broken bool) (url string) {
	return backend.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/color":
			io.WriteString(w, name)
		case broken:
			http.Error(w, "broken", http.StatusInternalServerError)
		default:
			backend.EveryKind(w, r)
		}
	}))
}

// TestBlueGreen replaces a backend by another one with a line of the configuration and an upgrade: nothing is lost, and
// WebSockets to the old one live on. With a trial a new backend that fails is not taken.
func TestBlueGreen(t *testing.T) {
	t.Parallel()
	blue, green := color(t, "blue", false), color(t, "green", false)
	b := service.Start(t, service.Config("proxy /="+blue), service.Args("-proxy-wait", "1m", "-drain-timeout", "2m"))
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Lenient: true, Exchanges: exchange.Echo(""),
		Clients: [load.Habits]int{load.BackToBack: 2, load.Pausing: 8, load.PerRequest: 1}}.Paced()
	counts, stop := load.Start(t, l)
	await.Until(t, "load", func() bool { return counts.Requests() > 20 })
	say := dialWebSocket(t, b)
	check := func(want string) {
		t.Helper()
		if got := string(b.Get("/color").Body); got != want {
			t.Errorf("got an answer of %s, want %s", got, want)
		}
		say("hello")
	}
	check("blue")

	b.Configure("proxy /=" + color(t, "broken green", true))
	u := b.TryUpgrade("-canary", "50%", "-canary-time", "1m")
	if u.Code != 1 || u.Result != "failed" {
		t.Errorf("upgrade to a broken backend: got exit code %d, %s", u.Code, u.Stdout)
	}
	t.Logf("%s; %d requests failed", u.Reason, counts.Failures())
	check("blue")
	wrong := counts.Failed[exchange.WrongStatus].Load()
	if wrong == 0 || counts.Failures() != wrong {
		t.Errorf("failed: got %v, want only what the broken backend answered", counts)
	}

	for _, next := range []struct{ name, url string }{{"green", green}, {"blue", blue}, {"green", green}} {
		b.Configure("proxy /=" + next.url)
		b.Upgrade()
		check(next.name)
	}
	if stop(); counts.Failures() != wrong {
		t.Errorf("failed in upgrades to good backends: %v", counts)
	}

	b.Configure("proxy /=" + green + "\nproxy /=http://" + b.Host + ":" + service.FreePort(t, b.Host))
	code, stdout, stderr := b.Run("check", "-control", b.Control, "-config", b.Config, "-listen", b.Address)
	if code != 0 || strings.Count(stderr, "does not answer") != 1 {
		t.Errorf("check: got exit code %d, %q, %q, want 0 and a warning about one backend", code, stdout, stderr)
	}
}

// dialWebSocket opens a WebSocket, and returns a way to send a message, which has to come back.
func dialWebSocket(t *testing.T, b *service.Baton) (say func(message string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), await.Hang)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+b.Address+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return func(message string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := c.Write(ctx, websocket.MessageText, []byte(message))
		if err == nil {
			var got []byte
			if _, got, err = c.Read(ctx); err == nil && string(got) != message {
				t.Errorf("WebSocket: got %q, want %q", got, message)
			}
		}
		if err != nil {
			t.Errorf("WebSocket: %v", err)
		}
	}
}

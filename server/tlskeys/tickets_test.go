package tlskeys_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"example.com/baton/server/internal/selfsigned"
	"example.com/baton/server/tlskeys"
)

// clock is a time that tests set.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

// ticketing makes connections in memory, at the time of a clock.
type ticketing struct {
	t      *testing.T
	clock  *clock
	signed selfsigned.Pair
}

func newTicketing(t *testing.T) *ticketing {
	now := time.Now()
	return &ticketing{t, &clock{now}, selfsigned.New(t, now.Add(29*24*time.Hour), "example.com")}
}

// config is that of a server.
func (g *ticketing) config() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{g.signed.TLS(g.t)}, Time: g.clock.now}
}

func (g *ticketing) keys(secret []byte) *tlskeys.TicketKeys {
	g.t.Helper()
	keys, err := tlskeys.NewTicketKeys(secret)
	if err != nil {
		g.t.Fatal(err)
	}
	keys.SetClock(g.clock.now)
	return keys
}

// client is one that remembers its session.
func (g *ticketing) client() *tls.Config {
	config := g.signed.Client()
	config.Time, config.ClientSessionCache = g.clock.now, tls.NewLRUClientSessionCache(1)
	return config
}

// resumes makes a connection.
func (g *ticketing) resumes(client, config *tls.Config) bool {
	g.t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	over := tls.Server(far, config)
	served := make(chan error, 1)
	go func() {
		err := over.Handshake()
		over.Write([]byte("x")) // behind the ticket
		served <- err
	}()
	c := tls.Client(near, client)
	if _, err := c.Read(make([]byte, 1)); err != nil {
		g.t.Fatal(err)
	}
	if err := <-served; err != nil {
		g.t.Fatal(err)
	}
	return c.ConnectionState().DidResume
}

func TestTicketKeysRotate(t *testing.T) {
	g := newTicketing(t)
	keys, config := g.keys(nil), g.config()
	keys.Use(config)
	const day = 24 * time.Hour
	for _, test := range []struct {
		after time.Duration // one rotation an hour in between
		want  bool
	}{{time.Hour, true}, {25 * time.Hour, true}, {6 * day, true}, {7*day + 2*time.Hour, false}} {
		start := g.clock.Time
		client := g.client()
		if g.resumes(client, config) {
			t.Error("a new client resumed")
		}
		for g.clock.Time.Before(start.Add(test.after)) {
			g.clock.Time = g.clock.Add(time.Hour)
			keys.Rotate()
		}
		if got := g.resumes(client, config); got != test.want {
			t.Errorf("after %v: resumed %t, want %t", test.after, got, test.want)
		}
	}
	if n := strings.Count(string(keys.Secret()), `"key"`); n != 8 {
		t.Errorf("got %d keys, want one for each day of a week, and the next", n)
	}
}

// A key is new after a day: who has the old one only cannot read a new ticket.
func TestTicketKeyIsNewEachDay(t *testing.T) {
	for after, want := range map[time.Duration]bool{23 * time.Hour: true, 24*time.Hour + time.Minute: false} {
		g := newTicketing(t)
		keys, config, old := g.keys(nil), g.config(), g.config()
		keys.Use(config)
		var secret []json.RawMessage // of which the first is for later
		if err := json.Unmarshal(keys.Secret(), &secret); err != nil || len(secret) != 2 {
			t.Fatalf("got %d keys, %v, want 2", len(secret), err)
		}
		g.keys(fmt.Appendf(nil, "[%s]", secret[1])).Use(old)
		g.clock.Time = g.clock.Add(after)
		keys.Rotate()
		client := g.client()
		g.resumes(client, config)
		if got := g.resumes(client, old); got != want {
			t.Errorf("after %v: resumed with the first key %t, want %t", after, got, want)
		}
	}
}

// Whether a configuration comes before a rotation or after it is no matter.
func TestTicketKeysInSeveralConfigurations(t *testing.T) {
	g := newTicketing(t)
	keys, before, after, other := g.keys(nil), g.config(), g.config(), g.config()
	keys.Use(before)
	early := g.client()
	g.resumes(early, before)
	g.clock.Time = g.clock.Add(30 * time.Hour)
	keys.Rotate()
	keys.Use(after)
	if !g.resumes(early, after) {
		t.Error("a ticket of the key before did not resume")
	}
	late := g.client()
	g.resumes(late, before)
	if !g.resumes(late, after) {
		t.Error("a ticket of the new key, given under the first configuration, did not resume under the second")
	}
	if g.resumes(late, other) {
		t.Error("resumed where the keys are not used")
	}
}

// The heir of the keys goes on with their age.
func TestTicketKeysAreInherited(t *testing.T) {
	g := newTicketing(t)
	keys, config := g.keys(nil), g.config()
	keys.Use(config)
	client := g.client()
	g.resumes(client, config)
	for range 20 {
		secret := keys.Secret()
		keys, config = g.keys(secret), g.config()
		keys.Use(config)
		if string(keys.Secret()) != string(secret) {
			t.Fatal("other keys than those inherited")
		}
		if !g.resumes(client, config) {
			t.Fatal("not resumed with inherited keys")
		}
	}
	g.clock.Time = g.clock.Add(24*time.Hour + time.Minute)
	keys.Rotate()
	if n := strings.Count(string(keys.Secret()), `"key"`); n != 3 {
		t.Errorf("got %d keys a day after the first was used, want 3", n)
	}
}

// Predecessor and successor come to use a new key, each for itself, and it is the same.
func TestTicketKeysRotateDuringHandoff(t *testing.T) {
	g := newTicketing(t)
	predecessor, before := g.keys(nil), g.config()
	predecessor.Use(before)
	successor, after := g.keys(predecessor.Secret()), g.config()
	successor.Use(after)
	g.clock.Time = g.clock.Add(24*time.Hour + time.Minute)
	for _, rotated := range []*tlskeys.TicketKeys{predecessor, successor} {
		rotated.Rotate()
		for _, configs := range [][2]*tls.Config{{before, after}, {after, before}} {
			client := g.client()
			g.resumes(client, configs[0])
			if !g.resumes(client, configs[1]) {
				t.Error("a ticket of one generation is none for the other")
			}
		}
	}
}

// A clock that was wrong leaves no key that is used for ever.
func TestTicketKeysOfAWrongClock(t *testing.T) {
	g := newTicketing(t)
	right := g.clock.Time
	g.clock.Time = right.Add(1000 * time.Hour)
	keys := g.keys(nil)
	keys.Rotate()
	g.clock.Time = right
	keys.Rotate()
	var left []struct{ From time.Time }
	if err := json.Unmarshal(keys.Secret(), &left); err != nil || len(left) != 2 || !left[1].From.Equal(right) {
		t.Errorf("got keys %v, %v, want one from now on and the next", left, err)
	}
}

func TestUnreadableTicketKeys(t *testing.T) {
	for _, secret := range []string{"garbage", `{}`, `[{"key":[1,2],"from":"yesterday"}]`, `[{"from":"2026-01-01T00:00:00Z"}]`} {
		keys, err := tlskeys.NewTicketKeys([]byte(secret))
		if err == nil || !strings.Contains(err.Error(), "ticket keys") {
			t.Errorf("%s: got %v, want an error", secret, err)
		}
		g := newTicketing(t)
		config := g.config()
		keys.Use(config)
		client := g.client()
		if g.resumes(client, config) || !g.resumes(client, config) {
			t.Errorf("%s: the keys are invalid", secret)
		}
	}
}

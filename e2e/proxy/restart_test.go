package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// healthFlags let Baton ask for the health of backends.
var healthFlags = []string{"-proxy-health", "/healthz"}

// ways are those in which backends restart.
var ways = []struct {
	name     string
	network  string
	n        int // backends
	announce bool
	flags    []string
	restart  func(s *site, round int)
}{
	{"gracefully", "tcp", 1, false, nil, func(s *site, _ int) { s.replace(0) }},
	{"gracefully and announced by the health path", "tcp", 1, true, healthFlags, (*site).announce},
	{"killed", "tcp", 1, false, nil, func(s *site, _ int) {
		s.kill(0)
		s.start(0).await(s.t, "ready")
	}},
	{"down for a while", "tcp", 1, false, nil, func(s *site, _ int) {
		s.kill(0)
		time.Sleep(s.pause) // what the case is about
		s.start(0).await(s.t, "ready")
	}},
	{"port taken by another process", "tcp", 1, false, healthFlags, (*site).lendPort},
	{"unix socket replaced", "unix", 1, false, nil, func(s *site, _ int) {
		old := s.running[0]
		s.start(0).await(s.t, "ready")
		old.stop(s.t)
	}},
	{"unix socket left behind or missing", "unix", 1, false, nil, func(s *site, round int) {
		s.kill(0)
		if round%2 == 1 {
			os.Remove(s.addresses[0])
			s.awaitRequest()
		}
		s.start(0).await(s.t, "ready")
	}},
	{"both of two in turn", "tcp", 2, false, nil, func(s *site, round int) {
		s.replace(round % 2)
		s.kill(1 - round%2)
		s.awaitRequest()
		s.start(1-round%2).await(s.t, "ready")
	}},
	{"rolling restart of three", "tcp", 3, false, nil, func(s *site, _ int) {
		for i := range 3 {
			s.replace(i)
		}
	}},
}

// TestBackendsRestart restarts backends in every way under load, while Baton upgrades itself now and then. No GET
// fails. Of the POSTs only those fail that a killed backend has received, and nothing that has been delivered is
// delivered once more unless it is a GET that nobody can have answered.
func TestBackendsRestart(t *testing.T) {
	t.Parallel()
	rounds, pause := tier.Times(t, "restarts in each way", 1, 1, 4), 500*time.Millisecond
	if tier.Strict() {
		pause = 3 * time.Second
	}
	rounds = max(rounds, *tier.Soak)
	for i, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			if i > 2 {
				tier.Slow(t, "the first three show most of it")
			}
			t.Parallel()
			s := startSite(t, newFleet(t, way.network, way.n, way.announce), way.flags)
			s.pause = pause
			for round := range rounds {
				s.upgraded = func() {}
				if round%4 == 0 {
					s.upgradeMeanwhile()
				}
				way.restart(s, round)
				s.awaitRequest()
				s.upgraded()
			}
			s.check()
		})
	}
}

// site is a service in front of a fleet, and its clients.
type site struct {
	*service.Baton
	*fleet
	t          *testing.T
	gets       []*load.Tally // of HTTP/1.1 and HTTP/2, plain and over TLS
	posts      []*load.Tally
	stops      []func() *load.Tally
	uploadHash string
	upgraded   func()        // waits for the end of the upgrade, if there is one
	pause      time.Duration // for which a backend is down
}

func startSite(t *testing.T, f *fleet, flags []string) *site {
	t.Helper()
	cert, key := certificate.Certificate(t)
	s := &site{t: t, fleet: f}
	s.Baton = service.Start(t, service.OverTLS(cert, key), service.Patient(), service.Args(s.targets()...), service.Args(flags...),
		// However busy this machine is, only a hang takes as long.
		service.Args("-proxy-wait", "1m", "-drain-timeout", "2m", "-upgrade-timeout", "2m"))
	upload := exchange.Pattern(100_000)
	s.uploadHash = fmt.Sprintf("%x", sha256.Sum256(upload))
	get := exchange.New("GET", "/fixed/1000", nil, 200, exchange.Pattern(1000))
	post := exchange.New("POST", "/upload", upload, 200, []byte(s.uploadHash))
	over := certificate.Trusting(t, []string{cert})
	for _, way := range []struct {
		address string
		config  *tls.Config
	}{{s.Address, nil}, {s.Secure(), over}} {
		s.gets = append(s.gets,
			s.load(way.address, way.config, get, [load.Habits]int{load.BackToBack: 1, load.Pausing: 4, load.PerRequest: 1}),
			s.load(way.address, way.config, get, [load.Habits]int{load.Streams: 1, load.StreamsPausing: 2}))
		s.posts = append(s.posts,
			s.load(way.address, way.config, post, [load.Habits]int{load.BackToBack: 1, load.Pausing: 2}),
			s.load(way.address, way.config, post, [load.Habits]int{load.StreamsPausing: 2}))
	}
	s.awaitRequest()
	return s
}

func (s *site) load(address string, config *tls.Config, x exchange.Exchange, clients [load.Habits]int) *load.Tally {
	l := load.Load{Network: "tcp", Address: address, TLS: config, Exchanges: []exchange.Exchange{x}, Clients: clients,
		Grace: s.Grace(), Lenient: true, Patience: 2 * await.Hang}.Paced()
	l.Rest *= 8
	counts, stop := load.Start(s.t, l)
	s.stops = append(s.stops, stop)
	return counts
}

// awaitRequest waits until the clients of each kind have been answered twice more: they made the second request now.
func (s *site) awaitRequest() {
	s.t.Helper()
	if s.fleetIsDown() {
		await.Until(s.t, "requests that wait", func() bool { return s.Metric("baton_backend_waiting_requests") > 0 })
		return
	}
	before := make(map[*load.Tally]int64)
	for _, tally := range append(s.gets, s.posts...) {
		before[tally] = tally.Requests()
	}
	await.Until(s.t, "answers to clients of each kind", func() bool {
		for tally, n := range before {
			if tally.Requests() < n+2 {
				return false
			}
		}
		return true
	})
}

func (s *site) fleetIsDown() bool {
	for _, x := range s.running {
		select {
		case <-x.done:
		default:
			return false
		}
	}
	return true
}

// upgradeMeanwhile begins an upgrade; upgraded waits for its end.
func (s *site) upgradeMeanwhile() {
	s.t.Helper()
	result := s.UpgradeMeanwhile()
	s.upgraded = sync.OnceFunc(func() {
		if u := result(); u.Code != 0 {
			s.t.Errorf("upgrade: got exit code %d, %s", u.Code, u.Errors)
		}
	})
}

// awaitUnused waits until the only backend gets no requests, and has none.
func (s *site) awaitUnused() {
	s.t.Helper()
	await.Until(s.t, "a backend that gets no requests", func() bool {
		return s.Metric("baton_backend_up") == 0 && s.Metric("baton_backend_requests_in_progress") == 0
	})
}

// announce lets the backend's health path fail, and stops it when Baton sends it no more requests.
func (s *site) announce(int) {
	s.t.Helper()
	s.upgraded()
	old := s.running[0]
	old.cmd.Process.Signal(syscall.SIGTERM)
	s.awaitUnused()
	old.stop(s.t)
	s.start(0).await(s.t, "ready")
	<-old.done
}

// replace lets a backend stop in order, and starts its successor while it finishes what it has.
func (s *site) replace(i int) {
	s.t.Helper()
	s.running[i].closed = true
	s.running[i].stop(s.t)
	s.start(i).await(s.t, "ready")
}

// lendPort kills the backend, and lets another program have its port for a while, which must get no request.
func (s *site) lendPort(int) {
	s.t.Helper()
	s.upgraded() // a successor does not know yet what its backends are
	s.kill(0)
	s.awaitUnused()
	ln, err := net.Listen("tcp", s.addresses[0])
	if err != nil {
		s.t.Fatal(err)
	}
	var asked, got atomic.Int64
	other := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1); r.URL.Path != "/healthz" {
			got.Add(1)
		}
		http.NotFound(w, r)
	})}
	go other.Serve(ln)
	x := s.start(0)
	await.Until(s.t, "questions for the health of another program", func() bool { return asked.Load() > 2 })
	other.Close()
	x.await(s.t, "ready")
	if got.Load() > 0 {
		s.t.Errorf("another program on the port got %d requests, want none", got.Load())
	}
}

// check ends the load, and compares what the clients, the backends and Baton have seen of each request.
func (s *site) check() {
	t := s.t
	t.Helper()
	for _, stop := range s.stops {
		stop()
	}
	var made, failedPosts int64
	for i, tally := range append(s.gets, s.posts...) {
		made += tally.Requests() + tally.Failures()
		wrong := tally.Failed[exchange.WrongStatus].Load()
		if i >= len(s.gets) {
			failedPosts += wrong
		}
		if other := tally.Failures() - wrong; other > 0 || wrong > 0 && i < len(s.gets) || tally.Refused() > 0 {
			t.Errorf("load %d: %v", i, tally)
		}
	}
	// A client may have its answer before the backend and Baton have written that down.
	var answers map[string]answer
	var delivered map[string][]*delivery
	await.Until(t, "every request in the logs", func() bool {
		answers, delivered = s.answers(), s.deliveries()
		return int64(len(answers)) == made && !slices.ContainsFunc(slices.Concat(slices.Collect(maps.Values(delivered))...),
			func(d *delivery) bool { return !d.ended && !d.instance.killed })
	})
	var repeated, unanswered, unread, posts int64
	for id, all := range delivered {
		last := all[len(all)-1]
		for _, d := range all {
			lost := d.instance.killed && !d.ended
			if d != last && (!lost || d.method != "GET") {
				t.Errorf("%s %s: delivered to %s, and then once more", d.method, id, d.instance.name)
			}
			if want := s.uploadHash; d.method == "POST" && d.hash != want && (d.hash != "" || !lost) {
				t.Errorf("POST %s: got body of hash %q, want %s", id, d.hash, want)
			}
		}
		repeated += int64(len(all) - 1)
		if last.method == "POST" {
			posts++
			switch answered := answers[id].Status == 200; {
			case !answered && (last.ended || !last.instance.killed):
				t.Errorf("POST %s: got %d although backend %s has answered", id, answers[id].Status, last.instance.name)
			case answered && last.hash == "":
				t.Errorf("POST %s: got 200 although backend %s has not read it", id, last.instance.name)
			case !answered:
				unanswered++
			}
		}
	}
	for id, a := range answers {
		if a.Status != 200 && delivered[id] == nil {
			unread++ // it was in the socket of a backend, which nobody knows but the kernel
		}
	}
	killed, closed := 0, 0
	for _, x := range s.all {
		if x.killed {
			killed++
		} else if x.closed {
			closed++
		}
	}
	if failedPosts != unanswered+unread || killed+closed == 0 && failedPosts > 0 {
		t.Errorf("%d POST failed, want %d that backends had received, and %d that were in their sockets", failedPosts, unanswered, unread)
	}
	t.Logf("%d requests, %d POSTs delivered, %d failed (%d read by a killed backend, %d in the socket of one); %d GETs repeated; %d backends, %d killed, %d closed",
		made, posts, failedPosts, unanswered, unread, repeated, len(s.all), killed, closed)
	if made != int64(len(delivered))+unread {
		t.Errorf("%d requests made, %d delivered and %d not read", made, len(delivered), unread)
	}
}

// answer is how a request ended for Baton.
type answer struct {
	Msg, Path, Method string
	ID                string `json:"request_id"`
	Status            int
}

// answers returns those of the access log, by the id of the request.
func (s *site) answers() map[string]answer {
	all := make(map[string]answer)
	for line := range strings.Lines(s.Log()) {
		var a answer
		if json.Unmarshal([]byte(line), &a) == nil && a.Msg == "request" {
			all[a.ID] = a
		}
	}
	return all
}

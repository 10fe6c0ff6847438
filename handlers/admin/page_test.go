package admin

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/backends"
	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/upgrade"
)

// visible returns what a browser without JavaScript shows.
func visible(page string) string {
	for _, element := range []string{"head", "script"} {
		page = regexp.MustCompile(`(?s)<`+element+`>.*?</`+element+`>`).ReplaceAllString(page, "")
	}
	page = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, " ")
	return strings.Join(strings.Fields(page), " ")
}

func TestPageHasContentWithoutScripts(t *testing.T) {
	m := noMetrics()
	count(t, m, 200, 1234)
	load := func(requests, active, idle int) upgrade.Load {
		return upgrade.Load{Requests: requests, Connections: upgrade.Connections{Active: active, Idle: idle}}
	}
	status := upgrade.Status{
		Service: backends.Report{Waiting: 1200, Backends: []backends.Backend{
			{Name: "http://127.0.0.1:3001", Prefixes: []string{"/", "/<b>/"}, State: "up", InProgress: 12, Requests: map[int]uint64{200: 1234, 503: 5}, Errors: 6},
			{Name: "unix:/run/app.sock", Prefixes: []string{"/"}, State: "down"},
		}}.JSON(),
		Notice:     "1.6.0 crashed 3 times & was replaced",
		Generation: 3, PID: 4242, Version: "1.5.0<b>", State: "serving", Listen: []string{"127.0.0.1:80", "[::1]:443"},
		Generations: []upgrade.Member{
			{Generation: 2, PID: 4141, Version: "1.4.0", State: "draining", Age: 90000, Load: load(1, 1, 0)},
			{Generation: 3, PID: 4242, Version: "1.5.0<b>", State: "serving", Age: 61, Load: load(2, 7, 1500)},
			{Generation: 4, PID: 4343, Version: "1.6.0", State: "starting", Age: .25},
		},
		Upgrades: []upgrade.Upgrade{
			{Time: time.Now().Add(-time.Hour), Trigger: "signal", From: 1, To: 2, Result: upgrade.Succeeded, Seconds: .123, Drained: &upgrade.Drained{
				Migrated: 1340, MigratedBy: map[string]int{"http/2+tls": 40, "http/1.1": 1300}, Connections: upgrade.Closed{Client: 1, IdleGrace: 2}}},
			{Time: time.Now().Add(-2 * time.Minute), Trigger: "control", From: 2, To: 3, Result: upgrade.Failed, Reason: "<script>alert(1)</script>", Seconds: 12},
		},
	}
	response, page := testserver.Do(t, testserver.Serve(t, Handler(Options{Metrics: m, Status: func() upgrade.Status { return status }})), "GET", "/")
	testserver.CheckPolicy(t, response, page)
	testserver.Equal(t, "Cache-Control", response.Header.Get("Cache-Control"), "no-store")
	text := visible(page)
	for name, want := range map[string]string{
		"notice":      "1.6.0 crashed 3 times &amp; was replaced Served by",
		"listeners":   "127.0.0.1:80, [::1]:443",
		"generation":  "Served by generation 3 version 1.5.0&lt;b&gt; pid 4242 serving · 1 min 1 s old",
		"requests":    "3 requests 1,234 in all",
		"connections": "1,508 8 active 0 hijacked 1,500 idle 0 new",
		"generations": "4 1.6.0 starting for 250 ms 3 1.5.0&lt;b&gt; serving · 2 requests, 1,507 connections 2 1.4.0 draining · 1 request, 1 connection",
		"backends": "1,200 requests waiting backend for state in progress answered 5xx errors" +
			" http://127.0.0.1:3001 / /&lt;b&gt;/ up 12 1,239 5 6 unix:/run/app.sock / down 0 0 0 0 Last",
		"upgrades": "✕ 2 → 3 failed after 12 s, by baton upgrade 2 min ago &lt;script&gt;alert(1)&lt;/script&gt;" +
			" ✓ 1 → 2 succeeded in 123 ms, by SIGHUP 1,340 connections migrated (1300 http/1.1, 40 http/2&#43;tls); closed: 1 by the client, 2 idle 1 h ago",
	} {
		// A busy machine may take seconds from the first line of this test to the page.
		got := regexp.MustCompile(`2 min \d+ s ago`).ReplaceAllString(text, "2 min ago")
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q in it", name, got, want)
		}
	}
	testserver.Equal(t, "title", strings.Contains(page, "<title>Generation 3 · Baton status</title>"), true)
	testserver.Equal(t, "hides that there is no upgrade", strings.Contains(page, `id="none" hidden>`), true)
	testserver.Equal(t, "is refreshed by events", strings.Contains(page, `EventSource("events")`), true)
}

func TestPageOfANewService(t *testing.T) {
	response, page := testserver.Do(t, testserver.Serve(t, Handler(Options{Metrics: noMetrics(), Status: newService().Status})), "GET", "/")
	testserver.CheckPolicy(t, response, page)
	testserver.Equal(t, "hides that there is no notice", strings.Contains(page, `id="notice" hidden></p>`), true)
	testserver.Equal(t, "has no upgrades", strings.Contains(page, `<ol id="upgrades"></ol>`), true)
	testserver.Equal(t, "says so", strings.Contains(page, `id="none">None yet.`), true)
}

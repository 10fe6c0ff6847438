package admin

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
	"example.com/baton/upgrade"
)

func TestHandler(t *testing.T) {
	var ready, sick atomic.Bool
	ready.Store(true)
	server := testserver.Serve(t, Handler(Options{
		Metrics: metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{Generation: 3} }}),
		Ready:   ready.Load,
		Status: func() upgrade.Status {
			return upgrade.Status{Generation: 3, Upgrades: []upgrade.Upgrade{{Reason: "</script>"}}}
		},
		Healthy: func() error {
			if sick.Load() {
				return errors.New("accept at 127.0.0.1:80: no")
			}
			return nil
		},
	}))
	check := func(name, method, path string, code int, contentType, want string) {
		t.Run(name, func(t *testing.T) {
			response, body := testserver.Do(t, server, method, path)
			testserver.Equal(t, "status", response.StatusCode, code)
			testserver.Equal(t, "Server", response.Header.Get("Server"), "baton")
			if contentType != "" {
				testserver.Equal(t, "Content-Type", response.Header.Get("Content-Type"), contentType)
				testserver.Equal(t, "Cache-Control", response.Header.Get("Cache-Control"), "no-store")
			}
			if method != "HEAD" {
				testserver.Equal(t, "body", body, want)
			}
		})
	}
	const plain = "text/plain; charset=utf-8"
	response, body := testserver.Do(t, server, "GET", "/metrics")
	testserver.Equal(t, "metrics", response.StatusCode, 200)
	testserver.Equal(t, "metrics have the generation", strings.Contains(body, "\nbaton_generation 3\n"), true)
	check("health", "GET", "/healthz", 200, plain, "ok\n")
	check("health, HEAD", "HEAD", "/healthz", 200, plain, "")
	check("ready", "GET", "/readyz", 200, plain, "ready\n")
	ready.Store(false)
	check("not ready", "GET", "/readyz", 503, plain, "not ready\n")
	check("healthy though not ready", "GET", "/healthz", 200, plain, "ok\n")
	sick.Store(true)
	check("sick", "GET", "/healthz", 503, plain, "accept at 127.0.0.1:80: no\n")
	check("status", "GET", "/status", 200, "application/json", `{"generation":3,"pid":0,"version":"","state":"","listen":null,"generations":null,`+
		`"upgrades":[{"time":"0001-01-01T00:00:00Z","trigger":"","from":0,"to":0,"result":"","reason":"\u003c/script\u003e","seconds":0,"from_version":"","to_version":""}]}`+"\n")
	check("unknown", "GET", "/nothing", 404, "", `{"error":"not found","status":404}`+"\n")
	check("below a known one", "GET", "/metrics/", 404, "", `{"error":"not found","status":404}`+"\n")
	check("post", "POST", "/readyz", 405, "", `{"error":"only GET and HEAD are answered here","status":405}`+"\n")
	for _, path := range []string{"/", "/status", "/events", "/metrics"} {
		response, _ := testserver.Do(t, server, "GET", path, "Host", "evil.example")
		testserver.Equal(t, path+" under a foreign name", response.StatusCode, http.StatusMisdirectedRequest)
	}
}

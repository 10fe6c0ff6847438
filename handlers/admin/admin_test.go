package admin

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
)

func TestAdmin(t *testing.T) {
	var ready, sick atomic.Bool
	ready.Store(true)
	var status any = map[string]any{"generation": 3, "reason": "</script>"}
	server := testserver.Serve(t, Handler(Options{Metrics: metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{Generation: 3} }}), Ready: ready.Load, Status: func() any { return status },
		Healthy: func() error {
			if sick.Load() {
				return errors.New("accept at 127.0.0.1:80: no")
			}
			return nil
		}}))
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
	check("status", "GET", "/status", 200, "application/json", `{"generation":3,"reason":"\u003c/script\u003e"}`+"\n")
	check("page", "GET", "/", 200, "text/html; charset=utf-8", statusHTML)
	check("unknown", "GET", "/nothing", 404, "", `{"error":"not found","status":404}`+"\n")
	check("below a known one", "GET", "/metrics/", 404, "", `{"error":"not found","status":404}`+"\n")
	check("post", "POST", "/readyz", 405, "", `{"error":"only GET and HEAD are answered here","status":405}`+"\n")
	status = func() {}
	check("status that is no JSON", "GET", "/status", 500, "", `{"error":"status cannot be marshalled","status":500}`+"\n")
	check("events of it", "GET", "/events", 500, "", `{"error":"status cannot be marshalled","status":500}`+"\n")
}

func TestAdminPagePolicy(t *testing.T) {
	response, body := testserver.Do(t, testserver.Serve(t, Handler(Options{})), "GET", "/")
	testserver.CheckPolicy(t, response, body)
	testserver.Equal(t, "lives on events", strings.Contains(body, `EventSource("events")`), true)
}

package handlers

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
)

func TestAdmin(t *testing.T) {
	var ready, sick atomic.Bool
	ready.Store(true)
	var status any = map[string]any{"generation": 3, "reason": "</script>"}
	server := serve(t, Admin(AdminOptions{Metrics: newMetrics(), Ready: ready.Load, Status: func() any { return status },
		Healthy: func() error {
			if sick.Load() {
				return errors.New("accept at 127.0.0.1:80: no")
			}
			return nil
		}}))
	check := func(name, method, path string, code int, contentType, want string) {
		t.Run(name, func(t *testing.T) {
			response, body := do(t, server, method, path)
			equal(t, "status", response.StatusCode, code)
			equal(t, "Server", response.Header.Get("Server"), "baton")
			if contentType != "" {
				equal(t, "Content-Type", response.Header.Get("Content-Type"), contentType)
				equal(t, "Cache-Control", response.Header.Get("Cache-Control"), "no-store")
			}
			if method != "HEAD" {
				equal(t, "body", body, want)
			}
		})
	}
	const plain = "text/plain; charset=utf-8"
	response, body := do(t, server, "GET", "/metrics")
	equal(t, "metrics", response.StatusCode, 200)
	equal(t, "metrics have the generation", strings.Contains(body, "\nbaton_generation 3\n"), true)
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
	response, body := do(t, serve(t, Admin(AdminOptions{})), "GET", "/")
	checkPolicy(t, response, body)
	equal(t, "lives on events", strings.Contains(body, `EventSource("events")`), true)
}

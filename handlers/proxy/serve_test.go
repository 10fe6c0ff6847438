package proxy

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// serve serves h as main would, and returns the address. What begins a drain also waits for its end.
func serve(t *testing.T, h http.Handler) (address string, drain func()) {
	t.Helper()
	srv := server.New(server.Options{Handler: h, Logger: testserver.Discard(), IdleGrace: time.Millisecond})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv.Add(listener)
	srv.Serve()
	drained := false
	drain = func() {
		if drained {
			return
		}
		drained = true
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		srv.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return false }})
	}
	t.Cleanup(drain)
	return listener.Addr().String(), drain
}

package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// tick writes ticks with their number.
func tick(w http.ResponseWriter, r *http.Request, n int) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	defer server.OnDrain(r.Context(), 0, func(context.Context) { conn.Close() })()
	for migrating := tickers.Migrating(r.Context()); ; n++ {
		select {
		case <-time.After(time.Second / 10):
		case <-migrating:
			state, _ := json.Marshal(n)
			if tickers.Migrate(r.Context(), nil, state) {
				return
			}
			migrating = nil // it has no use for it: stay here
		}
		if _, err := fmt.Fprintln(conn, "tick", n); err != nil {
			return
		}
	}
}

const tickers = server.Tunnels("ticker")

// A handler whose connections go on in the next generation with the number at which they were.
func ExampleTunnels() {
	srv := server.New(server.Options{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tick(w, r, 1) }),
		Resume: func(kind server.Tunnels, state []byte) http.Handler {
			var n int
			if kind != tickers || json.Unmarshal(state, &n) != nil {
				return nil
			}
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tick(w, r, n) })
		},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv.Add(ln)
	srv.Serve()

	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: clock\r\n\r\n")
	first := make([]byte, len("tick 1\n"))
	io.ReadFull(client, first)
	fmt.Print(string(first))

	ctx, cancel := context.WithTimeout(context.Background(), time.Second/10)
	defer cancel()
	srv.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return false }})
	// Output: tick 1
}

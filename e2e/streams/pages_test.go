package streams

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// A page for whose events there is no place says so, and goes on as soon as there is.
func TestRefusedPagesInBrowser(t *testing.T) {
	tier.Long(t, "a browser takes its time before it asks again")
	t.Parallel()
	b := service.Start(t)
	for _, place := range []struct {
		network, address, live string
		clients                int
	}{
		{b.Network, b.Address, "connected", 100},
		{"tcp", b.Admin, "live", 32},
	} {
		var held []*http1.Conn
		for range place.clients {
			c := http1.MustDial(t, place.network, place.address)
			c.Send(t, "GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
			if err := c.ReadHead(new(http1.Response)); err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
		}
		p := browse(t, "http://"+place.address)
		p.awaitText("link", func(text string) bool { return strings.Contains(text, "too many") })
		for _, c := range held {
			c.Close()
		}
		p.awaitText("link", func(text string) bool { return text == place.live })
	}
}

// pageWith is a page, and what it lives on at a path.
func pageWith(path string, rest http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			rest(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<!doctype html><link rel="icon" href="data:,"><h1>page</h1>`)
	})
}

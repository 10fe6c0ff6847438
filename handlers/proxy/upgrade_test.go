package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

// What is wrong with Upgrade is wrong with the request, not with the backend.
func TestProxyMalformedUpgrade(t *testing.T) {
	server, logged, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "answered") }), Options{})
	for _, test := range []struct {
		upgrade, want string // status
	}{
		{"\u00e9", "400"}, {"web\tsocket", "400"}, {"web socket", "400"}, {"h2c;q=1", "400"}, {"websocket/", "400"}, {"/1", "400"}, {"a/b/c", "400"},
		{`"websocket"`, "400"}, {"a, (b)", "400"}, {"a\r\nUpgrade: b c", "400"}, {"\x80", "400"},
		{"", "200"}, {",", "200"}, {"a/1.0 , b,", "200"}, {"a\r\nUpgrade: b", "200"},
	} {
		got := testserver.Exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, upgrade\r\nUpgrade: "+test.upgrade+"\r\n\r\n")
		testserver.Equal(t, fmt.Sprintf("status for %q", test.upgrade), strings.Fields(got)[1], test.want)
		for _, ignored := range []string{"GET / HTTP/1.0\r\nConnection: upgrade\r\n", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"} {
			got = testserver.Exchange(t, server.Listener.Addr().String(), ignored+"Upgrade: "+test.upgrade+"\r\n\r\n")
			testserver.Equal(t, fmt.Sprintf("status for %q where it is ignored", test.upgrade), strings.Fields(got)[1], "200")
		}
	}
	testserver.Equal(t, "backend failures", len(logged.With("backend failed")), 0)
}

// Which header and trailer fields pass through the proxy.

package handlers

import (
	"net/http"
	"net/textproto"
	"strings"
)

// removeHopByHop removes what is about one connection: RFC 9110, section 7.6.1.
// httputil does so too, but neither in interim responses nor in a 101.
func removeHopByHop(h http.Header) {
	for _, value := range h["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length"} {
		h.Del(name)
	}
}

// The protocols to which a client may upgrade through the proxy.

package handlers

import (
	"net/http"
	"slices"
	"strings"
)

// keepProtocol takes out of a request to a backend what asks it for HTTP/2 (h2c) or
// TLS on this connection. That is for Baton to ask. A backend that agreed would get
// requests from the client that Baton has not seen, for paths that no rule covers.
// Both are upgrades that a server may ignore: RFC 9110, section 7.8.
func keepProtocol(h http.Header) {
	h.Del("HTTP2-Settings")
	asked := strings.Split(h.Get("Upgrade"), ",")
	kept := slices.DeleteFunc(slices.Clone(asked), func(protocol string) bool {
		protocol = strings.TrimSpace(protocol)
		if end := strings.IndexAny(protocol, "/; "); end >= 0 {
			protocol = protocol[:end]
		}
		return strings.EqualFold(protocol, "h2c") || strings.EqualFold(protocol, "TLS")
	})
	switch len(kept) {
	case len(asked):
	case 0:
		h.Del("Upgrade")
		h.Del("Connection")
	default:
		h.Set("Upgrade", strings.TrimSpace(strings.Join(kept, ",")))
	}
}

package proxy

import (
	"net/http"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// validUpgrade reports whether the values of Upgrade are lists of protocols, each with
// or without a version: RFC 9110, section 7.8.
func validUpgrade(values []string) bool {
	isToken := httpguts.ValidHeaderFieldName // they have the same syntax
	for _, value := range values {
		for protocol := range strings.SplitSeq(value, ",") {
			protocol = textproto.TrimString(protocol)
			name, version, hasVersion := strings.Cut(protocol, "/")
			if protocol != "" && !isToken(name) || hasVersion && !isToken(version) {
				return false
			}
		}
	}
	return true
}

// keepProtocol takes out of a request to a backend what asks it for HTTP/2 (h2c) or
// TLS on this connection. That is for Baton to ask. A backend that agreed would get
// requests from the client that Baton has not seen, for paths that no rule covers.
// If they are among others, none is asked for. All are upgrades that a server may
// ignore: RFC 9110, section 7.8.
func keepProtocol(h http.Header) {
	h.Del("HTTP2-Settings")
	for protocol := range strings.SplitSeq(h.Get("Upgrade"), ",") {
		protocol = strings.TrimSpace(protocol)
		if end := strings.IndexAny(protocol, "/; "); end >= 0 {
			protocol = protocol[:end]
		}
		if strings.EqualFold(protocol, "h2c") || strings.EqualFold(protocol, "TLS") {
			h.Del("Upgrade")
			h.Del("Connection")
			return
		}
	}
}

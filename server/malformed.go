package server

import (
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// malformed returns why an HTTP/2 request is malformed although net/http has passed
// it on, or "". RFC 9113, sections 8.1.1, 8.2.3 and 8.3.1: a handler, and a backend
// that is sent the request in HTTP/1.1, may rely on these rules.
//
// A body that is shorter or longer than its Content-Length is not seen here. net/http
// resets the stream of a longer one, and fails the last Read of a shorter one.
func malformed(r *http.Request) string {
	if values, given := r.Header["Content-Length"]; given {
		length, err := strconv.ParseUint(values[0], 10, 63)
		switch {
		case len(values) > 1:
			return "more than one Content-Length"
		case err != nil:
			return "invalid Content-Length"
		case length > 0 && r.ContentLength == 0:
			return "Content-Length, but no body"
		}
	}
	hosts := r.Header["Host"] // :authority is in r.Host; without one, the first of these is
	if len(hosts) > 1 || len(hosts) == 1 && !strings.EqualFold(hosts[0], r.Host) {
		return "Host is not the authority"
	}
	if !httpguts.ValidHostHeader(r.Host) {
		return "invalid authority"
	}
	switch {
	case r.Method == http.MethodConnect:
	case r.Method == http.MethodOptions && r.RequestURI == "*":
	case r.Host == "":
		return "no authority"
	case !strings.HasPrefix(r.RequestURI, "/") || strings.ContainsAny(r.RequestURI, " #"):
		return "invalid path"
	}
	return ""
}

package middleware

import (
	"cmp"
	"net"
	"net/http"
	"strconv"
	"strings"

	"example.com/baton/handlers/forwarded"
	"example.com/baton/handlers/internal/host"
	"example.com/baton/handlers/internal/reply"
)

// RedirectHTTPS answers requests that have come to a TCP port without TLS with 308
// and the address at the https: port given; next answers the rest. A unix socket is
// for a server in front, which knows what it does.
//
// If a trusted proxy reports the scheme that the client has used ([forwarded.Origin]), that counts
// instead of the connection's own, and the address is the one that the proxy reports, at port 443.
func RedirectHTTPS(port int, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		isSecure, name, port := r.TLS != nil || local == nil, r.Host, port
		if origin, ok := forwarded.From(r.Context()); ok && origin.Proto != "" {
			isSecure, name, port = origin.IsSecure(), cmp.Or(origin.Host, r.Host), 443
		}
		if isSecure {
			next.ServeHTTP(w, r)
			return
		}
		// What the client sends is copied to where the browser takes it for an address.
		host, _, ok := host.Split(name)
		path := r.URL.RequestURI()
		if !ok || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " #") {
			reply.Error(w, r, http.StatusBadRequest, "this server serves HTTPS only, and the request does not name a valid host and path")
			return
		}
		if port != 443 {
			host = net.JoinHostPort(host, strconv.Itoa(port))
		} else if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		http.Redirect(w, r, "https://"+host+path, http.StatusPermanentRedirect)
	})
}

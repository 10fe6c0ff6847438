package middleware

import (
	"cmp"
	"net/http"

	"example.com/baton/handlers/internal/reply"
)

// Resources passes requests for a resource on to next, and answers the others: OPTIONS *,
// which is about the server as a whole, with 204, and CONNECT with 405, because Baton opens
// no tunnels to other servers. A target without a path, http://example.com, has the path /,
// and is the server as a whole for OPTIONS: RFC 9112, sections 3.2.2 and 3.2.4.
func Resources(next http.Handler) http.Handler {
	const allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodConnect:
			w.Header().Set("Allow", allowed)
			reply.Error(w, r, http.StatusMethodNotAllowed, "no tunnels to other servers here")
		case r.URL.Opaque != "": // x:y
			reply.Error(w, r, http.StatusBadRequest, "request target is not a path")
		case r.Method == http.MethodOptions && (r.RequestURI == "*" || r.URL.Path == ""):
			w.Header().Set("Allow", allowed)
			w.WriteHeader(http.StatusNoContent)
		case r.RequestURI != "*":
			r.URL.Path = cmp.Or(r.URL.Path, "/")
			next.ServeHTTP(w, r)
		default:
			reply.Error(w, r, http.StatusBadRequest, "only OPTIONS is about the server as a whole")
		}
	})
}

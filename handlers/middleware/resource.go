package middleware

import (
	"net/http"

	"example.com/baton/handlers/internal/reply"
)

// Resources passes requests for a resource on to next, and answers the others: OPTIONS *,
// which is about the server as a whole, with 204, and CONNECT with 405, because Baton opens
// no tunnels to other servers.
func Resources(next http.Handler) http.Handler {
	const allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodConnect:
			w.Header().Set("Allow", allowed)
			reply.Error(w, r, http.StatusMethodNotAllowed, "no tunnels to other servers here")
		case r.URL.Opaque != "": // x:y
			reply.Error(w, r, http.StatusBadRequest, "request target is not a path")
		case r.RequestURI != "*":
			next.ServeHTTP(w, r)
		case r.Method == http.MethodOptions:
			w.Header().Set("Allow", allowed)
			w.WriteHeader(http.StatusNoContent)
		default:
			reply.Error(w, r, http.StatusBadRequest, "only OPTIONS is about the server as a whole")
		}
	})
}

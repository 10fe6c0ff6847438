package middleware

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"example.com/baton/handlers/forwarded"
	"example.com/baton/handlers/internal/recorder"
	"example.com/baton/handlers/internal/reply"
	"example.com/baton/handlers/internal/request"
)

// statusClientClosed stands in the log, never on the wire, for a request that
// was aborted before it had an answer. nginx uses the same number.
const statusClientClosed = 499

// Log wraps next with what every request gets.
//
// A request id: that of X-Request-Id if it is at most 64 characters of
// [A-Za-z0-9._-], else a new one. It is set on the response, and on the
// request, so that next sees it and a proxy passes it on.
//
// One line in the access log, at level Info, when the handler returns: for a
// hijacked connection that is the end of the connection, with status 101 and, but for
// one that was proxied, only the bytes before the hijack. If it has migrated, the line is
// that of the last generation, for all. The query is left out, it may hold secrets.
// For a request from a trusted proxy it has the client that this reports ([forwarded.Origin]) as
// remote, without a port, and the peer of the connection as via.
//
// A panic is logged once with its stack at level Error. It is answered 500 if
// nothing was written; otherwise the connection is aborted, so that the client does
// not take half a response for a whole one. http.ErrAbortHandler is passed on.
//
// Responses carry `Server: baton` unless next changes it.
func Log(next http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(request.IDHeader)
		if !request.ValidID(id) {
			id = rand.Text()
		}
		r.Header.Set(request.IDHeader, id)
		method, path := r.Method, r.URL.Path // next may change r

		rec := recorder.New(w)
		begin := rec.Began()
		rec.Header().Set("Server", "baton")
		rec.Header().Set(request.IDHeader, id)

		defer func() {
			failure := recover()
			cut := recorder.IsAbort(failure)
			if failure != nil && !cut {
				logger.LogAttrs(r.Context(), slog.LevelError, "handler panicked",
					slog.Any("panic", failure), slog.String("stack", string(debug.Stack())),
					slog.String("method", request.Shorten(method)), slog.String("path", request.Shorten(path)), slog.String("request_id", id))
				if cut = rec.Status != 0; !cut {
					reply.Error(rec, r, http.StatusInternalServerError, "internal server error")
				}
			}
			if rec.HasMigrated() {
				return
			}
			if cut {
				defer panic(http.ErrAbortHandler)
			}
			if !logger.Enabled(r.Context(), slog.LevelInfo) {
				return
			}
			status := rec.Status
			switch {
			case status == 0 && cut:
				status = statusClientClosed
			case status == 0:
				status = http.StatusOK // net/http sends it when the handler returns
			}
			remote, via := client(r)
			logger.LogAttrs(r.Context(), slog.LevelInfo, "request",
				slog.String("method", request.Shorten(method)), slog.String("path", request.Shorten(path)),
				slog.Int("status", status), slog.Int64("bytes", rec.Bytes),
				slog.Float64("seconds", time.Since(begin).Seconds()),
				slog.String("protocol", r.Proto), slog.String("remote", remote), via,
				slog.String("request_id", id), slog.String("user_agent", request.Shorten(r.UserAgent())))
		}()
		next.ServeHTTP(rec, r)
	})
}

// client returns the client of a request, and the proxy between, as the access log has them.
func client(r *http.Request) (remote string, via slog.Attr) {
	if origin, ok := forwarded.From(r.Context()); ok && origin.Client != "" {
		return origin.Client, slog.String("via", r.RemoteAddr)
	}
	return r.RemoteAddr, slog.Attr{} // which handlers ignore
}

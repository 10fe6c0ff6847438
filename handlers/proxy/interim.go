package proxy

import (
	"maps"
	"net/http"

	"example.com/baton/handlers/internal/request"
)

// maxInterim bounds the interim responses to one request that a client gets. net/http
// has no bound where they are passed on; until the final one there is the header timeout.
const maxInterim = 100

// interimWriter writes the interim responses that httputil passes on, which does
// not do to them what it does to others. To HTTP/1.0 clients it writes none: RFC 9110,
// section 15.2.
type interimWriter struct {
	http.ResponseWriter
	left    int         // interim responses that the client may still get
	header  http.Header // as it was before httputil cleared it after an interim response
	cleared bool
}

func newInterimWriter(w http.ResponseWriter, r *http.Request) *interimWriter {
	left := 0
	if r.ProtoAtLeast(1, 1) {
		left = maxInterim
	}
	return &interimWriter{ResponseWriter: w, left: left, header: w.Header().Clone()}
}

// Header returns the header of the response to come.
func (w *interimWriter) Header() http.Header {
	h := w.ResponseWriter.Header()
	if w.cleared {
		maps.Copy(h, w.header)
		w.cleared = false
	}
	return h
}

func (w *interimWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.cleared = true
	if w.left == 0 {
		return
	}
	w.left--
	h := w.ResponseWriter.Header()
	removeHopByHop(h)
	h.Del(request.IDHeader)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what the writer does not change.
func (w *interimWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

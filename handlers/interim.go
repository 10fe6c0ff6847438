// Interim responses through the proxy.

package handlers

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
)

// maxInterim bounds the interim responses to one request, which net/http leaves to us.
const maxInterim = 100

// interimWriter writes the interim responses that httputil passes on, which does
// not do to them what it does to others. To HTTP/1.0 clients it writes none: RFC 9110,
// section 15.2.
type interimWriter struct {
	http.ResponseWriter
	understood bool
	header     http.Header // as it was before httputil cleared it after an interim response
	cleared    bool
}

func newInterimWriter(w http.ResponseWriter, r *http.Request) *interimWriter {
	return &interimWriter{ResponseWriter: w, understood: r.ProtoAtLeast(1, 1), header: w.Header().Clone()}
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
	if !w.understood {
		return
	}
	h := w.ResponseWriter.Header()
	removeHopByHop(h)
	h.Del(requestIDHeader)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what the writer does not change.
func (w *interimWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// boundInterim returns a context for a request to a backend, which fails when that
// does not stop to send interim responses.
func boundInterim(ctx context.Context) context.Context {
	n := 0
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		if n++; n > maxInterim {
			return errors.New("read response: too many interim responses")
		}
		return nil
	}})
}

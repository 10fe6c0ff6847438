package proxy

import (
	"io"
	"net/http"
	"net/textproto"
	"strings"

	"example.com/baton/handlers/internal/request"
	"golang.org/x/net/http/httpguts"
)

// removeAmbiguous removes from a request what a backend might take for other fields.
// CGI and WSGI know X-Forwarded-For as HTTP_X_FORWARDED_FOR, and so X_Forwarded_For,
// for which reason nginx drops all names with anything but letters, digits and hyphens.
// Proxy becomes the variable HTTP_PROXY, which programs take for their own proxy.
func removeAmbiguous(h http.Header) {
	for name := range h {
		if !isPlain(name) {
			delete(h, name)
		}
	}
	h.Del("Proxy")
}

func isPlain(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		default:
			return false
		}
	}
	return true
}

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

// passableTrailer reports whether a field may pass as a trailer. Those that frame,
// route or authenticate a message must not: RFC 9110, section 6.5.1. Nor may those
// that Baton sets, replaces or drops in headers.
func passableTrailer(name string) bool {
	switch name {
	case request.IDHeader, "Forwarded", "Proxy", "Upgrade", "Http2-Settings", "Cookie", "Set-Cookie", "Server", "Date":
		return false
	}
	return isPlain(name) && httpguts.ValidTrailerHeader(name) && !strings.HasPrefix(name, "X-Forwarded-")
}

// passTrailers lets the trailers of a request pass that it has declared. Others, which
// net/http adds to those when the body has been read, stay here, as they do in HTTP/2.
func passTrailers(out, in *http.Request) {
	out.Trailer = nil
	if out.Body == nil {
		return
	}
	declared := make(http.Header)
	for name := range in.Trailer {
		if passableTrailer(name) {
			declared[name] = nil
		}
	}
	if len(declared) == 0 {
		return
	}
	out.Trailer = declared
	out.Body = &endedBody{out.Body, func() {
		for name := range declared {
			declared[name] = in.Trailer[name]
		}
	}}
}

// removeTrailers lets only those trailers of a response pass that may.
func removeTrailers(response *http.Response) {
	remove := func() {
		for name := range response.Trailer {
			if !passableTrailer(name) {
				delete(response.Trailer, name)
			}
		}
	}
	remove() // those that are declared
	if response.Body != http.NoBody {
		response.Body = &endedBody{response.Body, remove}
	}
}

// endedBody calls ended when all has been read, and the trailers are known.
type endedBody struct {
	io.ReadCloser
	ended func()
}

func (b *endedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended()
	}
	return n, err
}

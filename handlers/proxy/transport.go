package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"time"

	"example.com/baton/handlers/proxy/internal/transport"
	"golang.org/x/net/http/httpguts"
)

// newTransport returns the transport to the rule's backend.
func (rule Rule) newTransport(headerTimeout time.Duration) *transport.Transport {
	options := transport.Options{Network: "tcp", HeaderTimeout: headerTimeout}
	host, port := rule.Target.Hostname(), rule.Target.Port()
	if ascii, err := httpguts.PunycodeHostPort(host); err == nil {
		host = ascii
	}
	if rule.Target.Scheme == "https" {
		options.TLS = &tls.Config{ServerName: host}
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[rule.Target.Scheme]
	}
	options.Address = net.JoinHostPort(host, port)
	return transport.New(options)
}

// flushBeforeWait flushes a response to w whenever the next part of it has to be waited for, and
// never else: a response that comes at once goes out in one write.
func flushBeforeWait(response *http.Response, w http.ResponseWriter) {
	if isEventStream(response.Header) {
		return // httputil flushes each part of these
	}
	if body, ok := response.Body.(interface{ BeforeWait(func()) }); ok {
		body.BeforeWait(func() { _ = http.NewResponseController(w).Flush() })
	}
}

// repeating repeats a request once that may have been lost because its backend has closed an idle
// connection at that moment.
type repeating struct{ *transport.Transport }

func (t repeating) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.Transport.RoundTrip(r)
	if transport.ProgressOf(err) == transport.Sent && !errors.Is(err, os.ErrDeadlineExceeded) && isRepeatable(r) {
		return t.Transport.RoundTrip(r)
	}
	return response, err
}

// isRepeatable reports whether it does not matter how often a request is sent: RFC 9110, section 9.2.2.
func isRepeatable(r *http.Request) bool {
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return r.Body == nil || r.Body == http.NoBody
	}
	return false
}

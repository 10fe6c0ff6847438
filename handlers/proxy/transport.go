package proxy

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"example.com/baton/handlers/proxy/internal/transport"
)

// newTransport returns the transport to the rule's backend.
func (rule Rule) newTransport(headerTimeout time.Duration, logger *slog.Logger) *transport.Transport {
	options := transport.Options{HeaderTimeout: headerTimeout, Logger: logger}
	options.Network, options.Address = rule.Address()
	if rule.Target.Scheme == "https" {
		host, _, _ := net.SplitHostPort(options.Address)
		options.TLS = &tls.Config{ServerName: host}
	}
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

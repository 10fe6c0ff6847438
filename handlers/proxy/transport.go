package proxy

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
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
	if strings.Contains(strings.ToLower(response.Header.Get("Content-Type")), "text/event-stream") {
		return // httputil flushes each part of these
	}
	if body, ok := response.Body.(interface{ BeforeWait(func()) }); ok {
		body.BeforeWait(func() { _ = http.NewResponseController(w).Flush() })
	}
}

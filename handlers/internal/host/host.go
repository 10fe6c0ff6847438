package host

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"example.com/baton/handlers/internal/reply"
)

// Split returns the host and the port ("": none) of a Host field or an :authority,
// and whether it is one that a URL can have: a name of letters, digits, hyphens and
// underscores, an IPv4 address, or an IPv6 address in brackets. net/http lets pass
// much more. The host comes without brackets.
func Split(field string) (host, port string, ok bool) {
	host = field
	if i := strings.LastIndexByte(field, ':'); i > strings.LastIndexByte(field, ']') {
		host, port = field[:i], field[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", "", false
		}
	}
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		return inner, port, closed && err == nil && addr.Is6() && addr.Zone() == ""
	}
	return host, port, IsName(host)
}

// IsName reports whether host is the name of a host, or an IPv4 address.
func IsName(host string) bool {
	if len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return false
		}
	}
	return true
}

// Known answers 421 to requests for a name that is not one of this machine: a web
// page can have its own name lead to this address, and then read what it likes through
// the browser of whoever visits it (DNS rebinding). It cannot do so with an IP address,
// with localhost, or with a name without dots.
//
// Scrapers and probes use names that nobody knows here. /healthz and /readyz, in which
// there is nothing to read, may be asked for by any, and /metrics by any but at a
// loopback address, to which other machines cannot connect.
func Known(configured string, next http.Handler) http.Handler {
	machine, _ := os.Hostname() // none: it is not asked for by that
	isKnown := func(host string) bool {
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if _, err := netip.ParseAddr(host); err == nil {
			return true
		}
		return !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") ||
			host == strings.ToLower(machine) || host == strings.ToLower(configured)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if r.Host == "" || local == nil { // as no browser sends it, and where none is
			next.ServeHTTP(w, r)
			return
		}
		host, _, ok := Split(r.Host)
		switch {
		case !ok:
			reply.Error(w, r, http.StatusBadRequest, "invalid host")
		case isKnown(host), r.URL.Path == "/healthz", r.URL.Path == "/readyz",
			r.URL.Path == "/metrics" && !local.IP.IsLoopback():
			next.ServeHTTP(w, r)
		default:
			reply.Error(w, r, http.StatusMisdirectedRequest, "this host name is not known here: use the IP address, localhost, or the name that -admin NAME:PORT gives")
		}
	})
}

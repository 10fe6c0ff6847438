package handlers

import (
	"net/netip"
	"strconv"
	"strings"
)

// splitHost returns the host and the port ("": none) of a Host field or an :authority,
// and whether it is one that a URL can have: a name of letters, digits, hyphens and
// underscores, an IPv4 address, or an IPv6 address in brackets. net/http lets pass
// much more. The host comes without brackets.
func splitHost(field string) (host, port string, ok bool) {
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
	return host, port, isHostName(host)
}

// isHostName reports whether host is the name of a host, or an IPv4 address.
func isHostName(host string) bool {
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

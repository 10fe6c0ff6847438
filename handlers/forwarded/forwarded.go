package forwarded

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"example.com/baton/handlers/internal/host"
)

// Trusted are the peers whose X-Forwarded-* fields count. The zero value has none.
type Trusted struct {
	prefixes []netip.Prefix
	unix     bool
}

// unixSockets stands for the peers of unix sockets.
const unixSockets = "unix:"

// Add adds an address, a prefix such as 10.0.0.0/8 or fd00::/8, or "unix:" for all peers of unix
// sockets.
func (t *Trusted) Add(s string) error {
	if s == unixSockets {
		t.unix = true
		return nil
	}
	prefix, err := netip.ParsePrefix(s)
	if addr, notAddr := netip.ParseAddr(s); notAddr == nil {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil || strings.Contains(s, "%"):
		return fmt.Errorf("%q is neither an address, nor a prefix such as 10.0.0.0/8, nor unix: for unix sockets", s)
	case prefix.Addr().Is4In6():
		return fmt.Errorf("%q is an IPv4 address in IPv6 form; want it as IPv4", s)
	case prefix != prefix.Masked():
		return fmt.Errorf("%q has bits beyond its length; want %v, or %v for one address", s, prefix.Masked(), prefix.Addr())
	}
	t.prefixes = append(t.prefixes, prefix)
	return nil
}

func (t Trusted) contains(addr netip.Addr) bool {
	return slices.ContainsFunc(t.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Handler wraps next, which finds the [Origin] of requests from trusted peers in their contexts.
func (t Trusted) Handler(next http.Handler) http.Handler {
	if len(t.prefixes) == 0 && !t.unix {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, ok := t.peerOf(r); ok {
			r = r.WithContext(context.WithValue(r.Context(), originKey{}, t.read(peer, r.Header)))
		}
		next.ServeHTTP(w, r)
	})
}

// peerOf returns the address of the peer, none for that of a unix socket, and whether it is trusted.
// What a unix socket calls its peer is up to that, and may look like an address.
func (t Trusted) peerOf(r *http.Request) (netip.Addr, bool) {
	if local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr); local != nil && local.Network() == "unix" {
		return netip.Addr{}, t.unix
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	addr := plain(peer.Addr())
	return addr, err == nil && t.contains(addr)
}

// plain returns an address as prefixes have it.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// Origin is what a trusted peer reports of the request that it has got. What it does not report is
// empty.
type Origin struct {
	Client string // address, without a port; of the peer itself if that reports none
	For    string // X-Forwarded-For as a backend should get it, with the peer's address
	Proto  string // http, https, ws or wss
	Host   string // valid, with or without a port
}

// IsSecure reports whether the client has used TLS.
func (o Origin) IsSecure() bool { return o.Proto == "https" || o.Proto == "wss" }

type originKey struct{}

// From returns the origin of a request that has come from a trusted peer.
func From(ctx context.Context) (o Origin, ok bool) {
	o, ok = ctx.Value(originKey{}).(Origin)
	return o, ok
}

// read returns what the header of a request reports that has come from a trusted peer.
func (t Trusted) read(peer netip.Addr, h http.Header) Origin {
	list := strings.Join(slices.DeleteFunc(slices.Clone(h["X-Forwarded-For"]), isBlank), ", ")
	o := Origin{For: list}
	if client := t.client(peer, list); client.IsValid() {
		o.Client = client.String()
	}
	if peer.IsValid() {
		o.For = strings.TrimPrefix(list+", "+peer.String(), ", ")
	}
	switch proto := strings.ToLower(last(h["X-Forwarded-Proto"])); proto {
	case "http", "https", "ws", "wss":
		o.Proto = proto
	}
	name := last(h["X-Forwarded-Host"])
	if _, _, ok := host.Split(name); ok {
		o.Host = name
	}
	return o
}

func isBlank(s string) bool { return strings.Trim(s, " \t,") == "" }

// maxHops bounds the elements of X-Forwarded-For that are looked at.
const maxHops = 32

// client returns the rightmost address in list that is not trusted or, if there is none before
// something else, the last one before that.
func (t Trusted) client(peer netip.Addr, list string) netip.Addr {
	client := peer
	for range maxHops {
		if list == "" {
			break
		}
		at := strings.LastIndexByte(list, ',')
		element := strings.Trim(list[at+1:], " \t")
		list = list[:max(at, 0)]
		if element == "" {
			continue
		}
		addr, ok := parseElement(element)
		if !ok {
			break
		}
		if client = addr; !t.contains(addr) {
			break
		}
	}
	return client
}

// parseElement reads an address that may have a port, or brackets.
func parseElement(s string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return plain(addr), true
	}
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return plain(withPort.Addr()), true
	}
	inner, isBracketed := strings.CutPrefix(s, "[")
	inner, isClosed := strings.CutSuffix(inner, "]")
	addr, err := netip.ParseAddr(inner)
	return plain(addr), isBracketed && isClosed && err == nil && addr.Is6()
}

// last returns the last element of the last line of a field.
func last(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	line := lines[len(lines)-1]
	return strings.Trim(line[strings.LastIndexByte(line, ',')+1:], " \t")
}

// Set sets the fields X-Forwarded-* of a request to a backend that have been set afresh before.
func (o Origin) Set(h http.Header) {
	h.Del("X-Forwarded-For")
	if o.For != "" {
		h.Set("X-Forwarded-For", o.For)
	}
	h.Set("X-Forwarded-Proto", cmp.Or(o.Proto, h.Get("X-Forwarded-Proto")))
	h.Set("X-Forwarded-Host", cmp.Or(o.Host, h.Get("X-Forwarded-Host")))
}

package upgrade

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// address is where a listener listens. It has one spelling, by which the next generation
// finds the socket again.
type address struct {
	unix string         // path of a unix socket, absolute; or
	tcp  netip.AddrPort // an IP address, :: for all of IPv6 and IPv4
}

// CheckAddress fails if Listen could not understand the address. A host name
// is not looked up.
func CheckAddress(s string) error {
	_, _, _, err := splitAddress(s)
	return err
}

// CheckDistinct fails if two of the addresses are one, or if one of them stands for
// all addresses of the machine, or all that are IPv4, and so includes another. Those that are empty or
// cannot be understood are passed over, and so is port 0, which stands for
// another port each time.
func CheckDistinct(addrs ...string) error {
	seen := make(map[string]string)
	var resolved []address
	for _, s := range addrs {
		a, err := resolveAddress(s)
		if s == "" || err != nil || a.unix == "" && a.tcp.Port() == 0 {
			continue
		}
		if before, twice := seen[a.String()]; twice {
			return fmt.Errorf("addresses %s and %s are one; give each listener its own", before, s)
		}
		seen[a.String()] = s
		for _, b := range resolved {
			if a.includes(b) {
				return fmt.Errorf("address %s includes %s; give each listener its own", s, seen[b.String()])
			} else if b.includes(a) {
				return fmt.Errorf("address %s includes %s; give each listener its own", seen[b.String()], s)
			}
		}
		resolved = append(resolved, a)
	}
	return nil
}

// splitAddress returns the parts of "unix:PATH" or "HOST:PORT".
func splitAddress(s string) (path, host string, port uint16, err error) {
	wrong := func(what string) error {
		return fmt.Errorf("address %q: %s; want host:port, :port or unix:PATH", s, what)
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		// sun_path has 108 bytes, of which one ends it: unix(7).
		if path == "" {
			return "", "", 0, wrong("no path")
		} else if len(path) > 107 {
			return "", "", 0, wrong("the path is longer than 107 bytes")
		} else if strings.HasPrefix(path, "@") || strings.ContainsRune(path, 0) {
			return "", "", 0, wrong("abstract sockets are not supported")
		}
		return path, "", 0, nil
	}
	host, service, err := net.SplitHostPort(s)
	if err != nil {
		if ae := (*net.AddrError)(nil); errors.As(err, &ae) {
			return "", "", 0, wrong(ae.Err)
		}
		return "", "", 0, wrong(err.Error())
	}
	if strings.ContainsAny(host, "/ \t") { // of a URL, say
		return "", "", 0, wrong(fmt.Sprintf("%q is not a host", host))
	}
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		named, lookErr := net.LookupPort("tcp", service)
		if lookErr != nil || service == "" {
			return "", "", 0, wrong(fmt.Sprintf("%q is not a port", service))
		}
		n = uint64(named)
	}
	return "", host, uint16(n), nil
}

// resolveAddress gives an address its one spelling. A host name becomes the
// address that it has now.
func resolveAddress(s string) (address, error) {
	path, host, port, err := splitAddress(s)
	if err != nil {
		return address{}, err
	}
	if path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return address{}, fmt.Errorf("address %q: %w", s, err)
		}
		return address{unix: abs}, nil
	}
	if host == "" {
		return address{tcp: netip.AddrPortFrom(netip.IPv6Unspecified(), port)}, nil
	}
	tcp, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return address{}, fmt.Errorf("address %q: %w", s, err)
	}
	ip := tcp.AddrPort().Addr().Unmap()
	return address{tcp: netip.AddrPortFrom(ip, port)}, nil
}

// network returns the address as net.Listen wants it, to which "tcp" and 0.0.0.0 mean IPv6
// as well.
func (a address) network() (network, addr string) {
	switch {
	case a.unix != "":
		return "unix", a.unix
	case a.tcp.Addr() == netip.IPv6Unspecified():
		return "tcp", fmt.Sprintf(":%d", a.tcp.Port())
	case a.tcp.Addr().Is4():
		return "tcp4", a.tcp.String()
	default:
		return "tcp", a.tcp.String()
	}
}

// String returns the one spelling, by which a socket is handed on.
func (a address) String() string {
	if a.unix != "" {
		return "unix:" + a.unix
	}
	return a.tcp.String()
}

// includes reports whether a stands for several addresses on one port, of which b is one.
func (a address) includes(b address) bool {
	if a == b || a.unix != "" || b.unix != "" || a.tcp.Port() != b.tcp.Port() {
		return false
	}
	all := a.tcp.Addr()
	return all == netip.IPv6Unspecified() || all == netip.IPv4Unspecified() && b.tcp.Addr().Is4()
}

// sameWildcard reports whether both mean every address of the machine, or all that are
// IPv4, on one port.
func (a address) sameWildcard(b address) bool {
	return a.unix == "" && b.unix == "" && a.tcp.Port() == b.tcp.Port() &&
		a.tcp.Addr().IsUnspecified() && b.tcp.Addr().IsUnspecified()
}

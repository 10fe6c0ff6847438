package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"example.com/baton/handlers/files"
	"example.com/baton/handlers/forwarded"
	"example.com/baton/handlers/proxy"
	"example.com/baton/server"
	"example.com/baton/server/tlskeys"
	"example.com/baton/upgrade"
)

// Settings is the configuration of a generation.
type Settings struct {
	Listen Addresses // of the public server, one at least
	Admin  string    // address of the admin server; empty: none
	TLS    TLS
	Files  files.Options // without a Root there are none
	Proxy  proxy.Options // without Rules there is none

	TrustedProxies forwarded.Trusted // in front

	Connections server.Options // of both servers
	Lifecycle   upgrade.Options
	Checks      []string // paths that a successor must answer before it is given anything
	Foreground  Foreground
	Log         Log
	// CrashRollback is whether a new release that crashes again and again is replaced.
	CrashRollback bool
}

// TLS configures the listeners for TLS.
type TLS struct {
	Certificates  []tlskeys.CertificateFiles
	RedirectHTTPS bool // redirect requests without TLS
}

// Foreground is whether the first process stays until the last generation is gone.
type Foreground string

// The values of Foreground. Automatic stays where the end of the first process would be
// mistaken for that of the service.
const (
	Automatic Foreground = "automatic"
	Always    Foreground = "true"
	Never     Foreground = "false"
)

// Address is where the public server listens.
type Address struct {
	Address string // as package upgrade takes it
	TLS     bool
}

const prefixTLS = "tls:"

func parseAddress(s string) Address {
	address, isTLS := strings.CutPrefix(s, prefixTLS)
	return Address{address, isTLS}
}

// String returns the address as -listen takes it.
func (a Address) String() string {
	if a.TLS {
		return prefixTLS + a.Address
	}
	return a.Address
}

// isHTTPS reports whether a browser could come here.
func (a Address) isHTTPS() bool { return a.TLS && !strings.HasPrefix(a.Address, "unix:") }

// Addresses are those of the public server.
type Addresses []Address

// Plain returns the addresses as package upgrade takes them.
func (a Addresses) Plain() (plain []string) {
	for _, address := range a {
		plain = append(plain, address.Address)
	}
	return plain
}

// String returns the addresses as -listen takes them.
func (a Addresses) String() string {
	var all []string
	for _, address := range a {
		all = append(all, address.String())
	}
	return strings.Join(all, ", ")
}

// AdminHost returns the host that Admin names, which is empty for a unix socket.
func (s Settings) AdminHost() string {
	host, _, _ := net.SplitHostPort(s.Admin)
	return host
}

// LoadCertificates reads the certificates, and logs which of them are not valid now.
func (t TLS) LoadCertificates(logger *slog.Logger) (*tlskeys.Certificates, error) {
	certificates, err := tlskeys.LoadCertificates(t.Certificates, logger)
	if err != nil {
		return nil, err
	}
	for _, invalid := range certificates.Invalid(time.Now()) {
		logger.Warn("clients will refuse a certificate", "error", invalid)
	}
	return certificates, nil
}

// checkTogether finds the problems that no setting has by itself.
func (r *reader) checkTogether() {
	s, certificates, keys := &r.settings, r.certificates, r.keys
	if len(s.Listen) == 0 {
		s.Listen = Addresses{{Address: ":8080"}}
	}
	r.report(upgrade.CheckDistinct(append(s.Listen.Plain(), s.Admin)...))
	tlsAt := slices.IndexFunc(s.Listen, func(a Address) bool { return a.TLS })
	switch {
	case len(certificates) != len(keys):
		r.report(fmt.Errorf("got %d -tls-cert and %d -tls-key; want them in pairs", len(certificates), len(keys)))
	case tlsAt >= 0 && len(keys) == 0:
		r.report(fmt.Errorf("-listen %s: want -tls-cert and -tls-key", s.Listen[tlsAt]))
	case len(keys) > 0 && tlsAt < 0:
		r.report(errors.New("-tls-cert is given, but no address for TLS; want -listen tls:ADDRESS"))
	}
	if s.TLS.RedirectHTTPS && !slices.ContainsFunc(s.Listen, Address.isHTTPS) {
		r.report(errors.New("-redirect-https: want -listen tls:HOST:PORT to redirect to"))
	}
	for i := range min(len(certificates), len(keys)) {
		s.TLS.Certificates = append(s.TLS.Certificates, tlskeys.CertificateFiles{Certificate: certificates[i], Key: keys[i]})
	}
	_, err := tlskeys.LoadCertificates(s.TLS.Certificates, nil)
	r.report(err)
	if s.Files.Root != "" {
		if _, err := files.New(s.Files); err != nil {
			r.report(fmt.Errorf("-root: %w", err))
		}
	}
}

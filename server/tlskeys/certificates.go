// Package tlskeys holds what a server of TLS has to keep secret: the keys of its certificates,
// and those of its session tickets.
//
// [Certificates] are read from files at the start, where any problem is an error. Their
// owner then calls [Certificates.Refresh] now and then. Whatever has become of the files by
// then, the server keeps a certificate that works: a pair that is invalid, as one is between
// the replacement of its two files, leaves the one before in use, and there is a warning if
// that lasts. Connections that are open are not affected. The name that a client asks for
// picks the certificate; the first one is for clients that name none, or one that is not there.
//
// The files have to be readable at all times by the user that the service runs as. For certbot
// that is a hook of mode 755 below /etc/letsencrypt/renewal-hooks/deploy, which is run by hand
// the first time, with RENEWED_LINEAGE=/etc/letsencrypt/live/NAME:
//
//	#!/bin/sh
//	install -o root -g baton -m 640 "$RENEWED_LINEAGE"/*.pem /etc/baton/
//
// With more than one certificate each has a directory of its own.
//
// [TicketKeys] rotate as those do that crypto/tls makes for each process, and go on in a
// successor, so that clients resume their sessions across an upgrade.
package tlskeys

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// CertificateFiles names a certificate chain and its key, both in PEM.
type CertificateFiles struct{ Certificate, Key string }

// Certificates are those of a server, of which a client's hello picks one. It is safe for
// concurrent use, but for Refresh.
type Certificates struct {
	files  []CertificateFiles
	log    *slog.Logger
	loaded atomic.Pointer[[]loadedCertificate]
}

type loadedCertificate struct {
	*tls.Certificate
	stamps  [2]fileStamp // of the files that it was read from
	bad     [2]fileStamp // of files that were invalid
	badness int          // how often these have been seen
}

// fileStamp changes whenever a file is written or replaced. Of the two times only that of
// the last change is the kernel's own: tools may preserve or make up the other.
type fileStamp struct {
	modified, changed syscall.Timespec
	size              int64
	inode             uint64
}

// ableClient can do all that there is. A key that it has no use for, as one on the
// curve P-224, nobody has.
var ableClient = &tls.ClientHelloInfo{
	SupportedVersions: []uint16{tls.VersionTLS13},
	SignatureSchemes: []tls.SignatureScheme{
		tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512, tls.Ed25519,
		tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP521AndSHA512,
	},
}

// LoadCertificates reads certificates. The error names each file that cannot be read, each key that
// does not belong to its certificate or cannot be used for TLS, and each chain that is not
// one. A certificate that has expired is no error: [Certificates.Invalid] reports it.
func LoadCertificates(files []CertificateFiles, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{files: files, log: log}
	var (
		loaded   []loadedCertificate
		problems []error
	)
	for _, f := range files {
		certificate, err := f.load()
		problems = append(problems, err)
		loaded = append(loaded, certificate)
	}
	c.loaded.Store(&loaded)
	return c, errors.Join(problems...)
}

func (f CertificateFiles) load() (loadedCertificate, error) {
	wrong := func(err error) (loadedCertificate, error) {
		return loadedCertificate{}, fmt.Errorf("certificate %s with key %s: %w", f.Certificate, f.Key, err)
	}
	stamps, err := f.stamps()
	if err != nil {
		return wrong(err)
	}
	certificate, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
	if err != nil {
		if key, _ := os.ReadFile(f.Key); bytes.Contains(key, []byte("ENCRYPTED")) {
			err = errors.New("the key is encrypted; want one without a passphrase")
		}
		return wrong(err)
	}
	if certificate.Leaf == nil {
		if certificate.Leaf, err = x509.ParseCertificate(certificate.Certificate[0]); err != nil {
			return wrong(err)
		}
	}
	if err := ableClient.SupportsCertificate(&certificate); err != nil {
		return wrong(err)
	}
	return loadedCertificate{Certificate: &certificate, stamps: stamps}, nil
}

func (f CertificateFiles) stamps() (stamps [2]fileStamp, err error) {
	for i, path := range []string{f.Certificate, f.Key} {
		info, err := os.Stat(path)
		if err != nil {
			return stamps, err
		}
		stat := info.Sys().(*syscall.Stat_t)
		stamps[i] = fileStamp{stat.Mtim, stat.Ctim, stat.Size, stat.Ino}
	}
	return stamps, nil
}

// Get is the GetCertificate of a tls.Config: the first certificate that serves
// the name and the abilities of the client or, if none does, the first.
func (c *Certificates) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	loaded := *c.loaded.Load()
	if len(loaded) == 0 {
		return nil, errors.New("no certificate is given")
	}
	for _, certificate := range loaded {
		if hello.SupportsCertificate(certificate.Certificate) == nil {
			return certificate.Certificate, nil
		}
	}
	return loaded[0].Certificate, nil
}

// Refresh reads again what has changed. It is to be called now and then, by one
// goroutine. A pair that is invalid, or that is not valid yet or any more where the one in
// use is, changes nothing. If it is still the same the second time, there is a warning.
func (c *Certificates) Refresh() {
	loaded := slices.Clone(*c.loaded.Load())
	for i, f := range c.files {
		stamps, err := f.stamps()
		if err == nil && stamps == loaded[i].stamps {
			loaded[i].badness = 0
			continue
		}
		fresh, err := f.load()
		if now := time.Now(); err == nil && f.invalid(loaded[i].Leaf, now) == nil {
			err = f.invalid(fresh.Leaf, now)
		}
		if old := &loaded[i]; err != nil {
			if old.badness == 0 || old.bad != stamps {
				old.bad, old.badness = stamps, 0
			}
			if old.badness++; old.badness == 2 {
				c.log.Warn("changed certificate is invalid; the previous one stays in use", "error", err)
			}
			continue
		}
		loaded[i] = fresh
		c.log.Info("certificate reloaded", "certificate", f.Certificate, "expires", fresh.Leaf.NotAfter)
	}
	c.loaded.Store(&loaded)
}

// Invalid returns an error for each certificate that is not valid at a time.
func (c *Certificates) Invalid(at time.Time) (why []error) {
	for i, certificate := range *c.loaded.Load() {
		if err := c.files[i].invalid(certificate.Leaf, at); err != nil {
			why = append(why, err)
		}
	}
	return why
}

func (f CertificateFiles) invalid(leaf *x509.Certificate, at time.Time) error {
	switch {
	case at.After(leaf.NotAfter):
		return fmt.Errorf("certificate %s has expired at %s", f.Certificate, leaf.NotAfter.Format(time.RFC3339))
	case at.Before(leaf.NotBefore):
		return fmt.Errorf("certificate %s is not valid before %s", f.Certificate, leaf.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// Validity is the time in which a certificate is valid.
type Validity struct{ NotBefore, NotAfter time.Time }

// Validity returns when each certificate is valid, by its first name. Of several with
// the same name it is that of the one that expires first.
func (c *Certificates) Validity() map[string]Validity {
	validity := make(map[string]Validity)
	for _, certificate := range *c.loaded.Load() {
		leaf := certificate.Leaf
		name := leaf.Subject.CommonName
		if len(leaf.DNSNames) > 0 {
			name = leaf.DNSNames[0]
		} else if len(leaf.IPAddresses) > 0 && name == "" {
			name = leaf.IPAddresses[0].String()
		}
		name = strings.ToValidUTF8(name, "?")
		if other, ok := validity[name]; !ok || leaf.NotAfter.Before(other.NotAfter) {
			validity[name] = Validity{leaf.NotBefore, leaf.NotAfter}
		}
	}
	return validity
}

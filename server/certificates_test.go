package server_test

// This file tests certificates: what is loaded, which a client gets, and what
// becomes of changed files.

import (
	"bytes"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/server"
)

// certified is a folder with pairs, and what was loaded from it.
type certified struct {
	*server.Certificates
	t      *testing.T
	folder string
	logged bytes.Buffer
}

func (c *certified) path(name string) string { return filepath.Join(c.folder, name) }

func (c *certified) put(name string, content []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name+".new"), content, 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(c.path(name+".new"), c.path(name)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *certified) putPair(name string, pair signed) {
	c.t.Helper()
	c.put(name+".pem", pair.certificate)
	c.put(name+".key", pair.key)
}

func loadPairs(t *testing.T, pairs ...signed) *certified {
	t.Helper()
	c := &certified{t: t, folder: t.TempDir()}
	var files []server.CertificateFiles
	for i, pair := range pairs {
		name := string(rune('a' + i))
		c.putPair(name, pair)
		files = append(files, server.CertificateFiles{Certificate: c.path(name + ".pem"), Key: c.path(name + ".key")})
	}
	var err error
	if c.Certificates, err = server.LoadCertificates(files, slog.New(slog.NewTextHandler(&c.logged, nil))); err != nil {
		t.Fatal(err)
	}
	return c
}

// gives fails unless a client that asks for name gets this certificate.
func (c *certified) gives(name string, want signed) {
	c.t.Helper()
	got, err := c.Get(&tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}})
	if err != nil {
		c.t.Fatal(err)
	}
	if !bytes.Equal(got.Certificate[0], want.leaf.Raw) {
		leaf, _ := x509.ParseCertificate(got.Certificate[0])
		c.t.Errorf("%q: got the certificate of %q, %v, want that of %q, %v", name, leaf.DNSNames, leaf.NotAfter, want.leaf.DNSNames, want.leaf.NotAfter)
	}
}

func soon() time.Time { return time.Now().Add(time.Hour) }

func TestCertificateForName(t *testing.T) {
	first, wild, both := sign(t, soon(), "first.example"), sign(t, soon(), "*.wild.example"), sign(t, soon(), "second.example", "third.example")
	c := loadPairs(t, first, wild, both)
	for name, want := range map[string]signed{
		"first.example": first, "a.wild.example": wild, "second.example": both, "THIRD.example": both,
		"": first, "unknown.example": first, "a.b.wild.example": first,
	} {
		c.gives(name, want)
	}
}

func TestCertificatesThatCannotBeLoaded(t *testing.T) {
	good, other := sign(t, soon(), "good.example"), sign(t, soon(), "other.example")
	c := loadPairs(t, good, other)
	c.put("empty.pem", nil)
	c.put("encrypted.key", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
	useless := signOn(t, elliptic.P224(), soon(), "useless.example")
	c.put("useless.pem", useless.certificate)
	c.put("useless.key", useless.key)
	file := func(certificate, key string) server.CertificateFiles {
		return server.CertificateFiles{Certificate: c.path(certificate), Key: c.path(key)}
	}
	for name, test := range map[string]struct {
		files []server.CertificateFiles
		want  []string
	}{
		"missing":    {[]server.CertificateFiles{file("none.pem", "a.key"), file("a.pem", "none.key")}, []string{"none.pem", "none.key"}},
		"mismatched": {[]server.CertificateFiles{file("a.pem", "b.key")}, []string{"a.pem", "b.key", "does not match"}},
		"no chain":   {[]server.CertificateFiles{file("a.pem", "a.key"), file("empty.pem", "b.key")}, []string{"empty.pem"}},
		"useless":    {[]server.CertificateFiles{file("useless.pem", "useless.key")}, []string{"useless.pem", "curve"}},
		"encrypted":  {[]server.CertificateFiles{file("a.pem", "encrypted.key")}, []string{"a.pem", "want one without a passphrase"}},
		"swapped":    {[]server.CertificateFiles{file("a.key", "a.pem")}, []string{"a.key"}},
	} {
		_, err := server.LoadCertificates(test.files, slog.New(slog.DiscardHandler))
		if err == nil {
			t.Errorf("%s: loaded", name)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q named", name, err, want)
			}
		}
	}
}

func TestCertificateValidity(t *testing.T) {
	past, near, far := time.Now().Add(-time.Hour).Truncate(time.Second), soon().Truncate(time.Second), soon().Add(time.Hour).Truncate(time.Second)
	c := loadPairs(t, sign(t, past, "past.example"), sign(t, far, "same.example", "more.example"), sign(t, near, "same.example"))
	got := c.Validity()
	want := map[string]time.Time{"past.example": past, "same.example": near}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for name, at := range want {
		if !got[name].NotAfter.Equal(at) || !got[name].NotBefore.Before(at) {
			t.Errorf("%s: got %v, want %v", name, got[name], at)
		}
	}
}

func TestCertificatesThatAreNotValid(t *testing.T) {
	at := soon().Truncate(time.Second)
	c := loadPairs(t, sign(t, at, "first.example"), sign(t, at.Add(time.Hour), "second.example"))
	begin := c.start()
	for name, test := range map[string]struct {
		at   time.Time
		want []string
	}{
		"now":          {time.Now(), nil},
		"later":        {at.Add(time.Second), []string{"a.pem has expired at " + at.UTC().Format(time.RFC3339)}},
		"too early":    {begin.Add(-time.Second), []string{"a.pem is not valid before", "b.pem is not valid before"}},
		"after it all": {at.Add(time.Hour + time.Second), []string{"a.pem has expired", "b.pem has expired"}},
	} {
		why := c.Invalid(test.at)
		if len(why) != len(test.want) {
			t.Errorf("%s: got %v, want %q", name, why, test.want)
			continue
		}
		for i, want := range test.want {
			if !strings.Contains(why[i].Error(), want) {
				t.Errorf("%s: got %v, want %q", name, why[i], want)
			}
		}
	}
}

// start returns since when the first one is valid.
func (c *certified) start() time.Time {
	c.t.Helper()
	got, err := c.Get(&tls.ClientHelloInfo{SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}})
	if err != nil {
		c.t.Fatal(err)
	}
	return got.Leaf.NotBefore
}

func TestRefresh(t *testing.T) {
	old, other := sign(t, soon(), "example.com"), sign(t, soon(), "other.example")
	fresh := sign(t, soon().Add(time.Hour), "example.com")
	tests := map[string]struct {
		change func(c *certified)
		fresh  bool
		warns  bool
	}{
		"nothing":          {func(c *certified) {}, false, false},
		"both by rename":   {func(c *certified) { c.putPair("a", fresh) }, true, false},
		"certificate only": {func(c *certified) { c.put("a.pem", fresh.certificate) }, false, true},
		"key only":         {func(c *certified) { c.put("a.key", fresh.key) }, false, true},
		"garbage":          {func(c *certified) { c.put("a.pem", []byte("garbage")) }, false, true},
		"gone":             {func(c *certified) { os.Remove(c.path("a.key")) }, false, true},
		"expired":          {func(c *certified) { c.putPair("a", sign(t, time.Now().Add(-time.Hour), "example.com")) }, false, true},
		"not valid yet":    {func(c *certified) { c.putPair("a", sign(t, time.Now().Add(31*24*time.Hour), "example.com")) }, false, true},
		"one, then the other": {func(c *certified) {
			c.put("a.pem", fresh.certificate)
			c.Refresh()
			c.gives("example.com", old)
			c.put("a.key", fresh.key)
		}, true, false},
		"garbage, then good": {func(c *certified) {
			c.put("a.pem", []byte("garbage"))
			c.Refresh()
			c.putPair("a", fresh)
		}, true, false},
		"good again": {func(c *certified) {
			c.put("a.pem", []byte("garbage"))
			c.Refresh()
			c.put("a.pem", old.certificate)
			c.Refresh()
			c.put("a.pem", []byte("garbage"))
		}, false, true},
		"by symlink": {func(c *certified) {
			for name, content := range map[string][]byte{"a.pem": fresh.certificate, "a.key": fresh.key} {
				c.put("live."+name, content)
				os.Remove(c.path(name))
				if err := os.Symlink("live."+name, c.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}, true, false},
		"in place": {func(c *certified) {
			os.WriteFile(c.path("a.pem"), fresh.certificate, 0o600)
			os.WriteFile(c.path("a.key"), fresh.key, 0o600)
			os.Chtimes(c.path("a.pem"), time.Time{}, time.Now().Add(time.Second))
		}, true, false},
		"in place, with nothing but the content changed": {func(c *certified) {
			long := func(pem []byte) []byte {
				return append(slices.Clone(pem), bytes.Repeat([]byte("\n"), 4096-len(pem))...)
			}
			for name, pair := range map[string][2][]byte{"a.pem": {old.certificate, fresh.certificate}, "a.key": {old.key, fresh.key}} {
				c.put(name, long(pair[0]))
				os.Chtimes(c.path(name), time.Unix(1, 0), time.Unix(1, 0))
			}
			c.Refresh()
			for name, content := range map[string][]byte{"a.pem": fresh.certificate, "a.key": fresh.key} {
				for before := changed(c.path(name)); changed(c.path(name)) == before; { // not in the same tick of the clock
					os.WriteFile(c.path(name), long(content), 0o600)
					os.Chtimes(c.path(name), time.Unix(1, 0), time.Unix(1, 0))
				}
			}
		}, true, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := loadPairs(t, old, other)
			c.t = t
			test.change(c)
			c.Refresh()
			c.gives("example.com", map[bool]signed{false: old, true: fresh}[test.fresh])
			c.gives("other.example", other)
			if strings.Contains(c.logged.String(), "level=WARN") {
				t.Errorf("warned at once: %s", &c.logged)
			}
			c.Refresh()
			if got := strings.Contains(c.logged.String(), "level=WARN"); got != test.warns {
				t.Errorf("warned at the second time %t, want %t: %s", got, test.warns, &c.logged)
			}
			said := c.logged.Len()
			c.Refresh()
			if again := c.logged.String()[said:]; again != "" {
				t.Errorf("the third time: logged %q, want nothing new", again)
			}
		})
	}
}

// changed returns the time of the last change of a file, which no program can set.
func changed(path string) syscall.Timespec {
	info, err := os.Stat(path)
	if err != nil {
		return syscall.Timespec{}
	}
	return info.Sys().(*syscall.Stat_t).Ctim
}

// Certificates in use by a server are replaced under its connections.
func TestRefreshWhileServing(t *testing.T) {
	old, fresh := sign(t, soon(), "example.com"), sign(t, soon(), "example.com")
	c := loadPairs(t, old)
	s := serveConfig(t, listen(t), server.Options{Handler: names("here")}, &tls.Config{GetCertificate: c.Get})
	before := s.dial().shake(old.trust())
	before.isFrom("here")
	c.putPair("a", fresh)
	c.Refresh()
	s.dial().shake(fresh.trust()).isFrom("here")
	before.isFrom("here")
	<-s.drain(patience, all)
}

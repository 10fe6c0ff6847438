package tlskeys_test

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

	"example.com/baton/server/internal/selfsigned"
	"example.com/baton/server/tlskeys"
)

// certified is a directory with pairs, and what was loaded from it.
type certified struct {
	*tlskeys.Certificates
	t         *testing.T
	directory string
	logged    bytes.Buffer
}

func (c *certified) path(name string) string { return filepath.Join(c.directory, name) }

func (c *certified) put(name string, content []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name+".new"), content, 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(c.path(name+".new"), c.path(name)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *certified) putPair(name string, pair selfsigned.Pair) {
	c.t.Helper()
	c.put(name+".pem", pair.Certificate)
	c.put(name+".key", pair.Key)
}

func loadPairs(t *testing.T, pairs ...selfsigned.Pair) *certified {
	t.Helper()
	c := &certified{t: t, directory: t.TempDir()}
	var files []tlskeys.CertificateFiles
	for i, pair := range pairs {
		name := string(rune('a' + i))
		c.putPair(name, pair)
		files = append(files, tlskeys.CertificateFiles{Certificate: c.path(name + ".pem"), Key: c.path(name + ".key")})
	}
	var err error
	if c.Certificates, err = tlskeys.LoadCertificates(files, slog.New(slog.NewTextHandler(&c.logged, nil))); err != nil {
		t.Fatal(err)
	}
	return c
}

// gives fails unless a client that asks for name gets this certificate.
func (c *certified) gives(name string, want selfsigned.Pair) {
	c.t.Helper()
	got, err := c.Get(&tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}})
	if err != nil {
		c.t.Fatal(err)
	}
	if !bytes.Equal(got.Certificate[0], want.Leaf.Raw) {
		leaf, _ := x509.ParseCertificate(got.Certificate[0])
		c.t.Errorf("%q: got the certificate of %q, %v, want that of %q, %v", name, leaf.DNSNames, leaf.NotAfter, want.Leaf.DNSNames, want.Leaf.NotAfter)
	}
}

func soon() time.Time { return time.Now().Add(time.Hour) }

func TestCertificateForName(t *testing.T) {
	first, wild, both := selfsigned.New(t, soon(), "first.example"), selfsigned.New(t, soon(), "*.wild.example"), selfsigned.New(t, soon(), "second.example", "third.example")
	c := loadPairs(t, first, wild, both)
	for name, want := range map[string]selfsigned.Pair{
		"first.example": first, "a.wild.example": wild, "second.example": both, "THIRD.example": both,
		"": first, "unknown.example": first, "a.b.wild.example": first,
	} {
		c.gives(name, want)
	}
}

func TestCertificatesThatCannotBeLoaded(t *testing.T) {
	good, other := selfsigned.New(t, soon(), "good.example"), selfsigned.New(t, soon(), "other.example")
	c := loadPairs(t, good, other)
	c.put("empty.pem", nil)
	c.put("encrypted.key", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
	useless := selfsigned.NewOn(t, elliptic.P224(), soon(), "useless.example")
	c.put("useless.pem", useless.Certificate)
	c.put("useless.Key", useless.Key)
	file := func(certificate, key string) tlskeys.CertificateFiles {
		return tlskeys.CertificateFiles{Certificate: c.path(certificate), Key: c.path(key)}
	}
	for name, test := range map[string]struct {
		files []tlskeys.CertificateFiles
		want  []string
	}{
		"missing":    {[]tlskeys.CertificateFiles{file("none.pem", "a.key"), file("a.pem", "none.key")}, []string{"none.pem", "none.key"}},
		"mismatched": {[]tlskeys.CertificateFiles{file("a.pem", "b.key")}, []string{"a.pem", "b.key", "does not match"}},
		"no chain":   {[]tlskeys.CertificateFiles{file("a.pem", "a.key"), file("empty.pem", "b.key")}, []string{"empty.pem"}},
		"useless":    {[]tlskeys.CertificateFiles{file("useless.pem", "useless.Key")}, []string{"useless.pem", "curve"}},
		"encrypted":  {[]tlskeys.CertificateFiles{file("a.pem", "encrypted.key")}, []string{"a.pem", "want one without a passphrase"}},
		"swapped":    {[]tlskeys.CertificateFiles{file("a.key", "a.pem")}, []string{"a.key"}},
	} {
		_, err := tlskeys.LoadCertificates(test.files, slog.New(slog.DiscardHandler))
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
	c := loadPairs(t, selfsigned.New(t, past, "past.example"), selfsigned.New(t, far, "same.example", "more.example"), selfsigned.New(t, near, "same.example"))
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
	c := loadPairs(t, selfsigned.New(t, at, "first.example"), selfsigned.New(t, at.Add(time.Hour), "second.example"))
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
	old, other := selfsigned.New(t, soon(), "example.com"), selfsigned.New(t, soon(), "other.example")
	fresh := selfsigned.New(t, soon().Add(time.Hour), "example.com")
	tests := map[string]struct {
		change func(c *certified)
		fresh  bool
		warns  bool
	}{
		"nothing":          {func(c *certified) {}, false, false},
		"both by rename":   {func(c *certified) { c.putPair("a", fresh) }, true, false},
		"certificate only": {func(c *certified) { c.put("a.pem", fresh.Certificate) }, false, true},
		"key only":         {func(c *certified) { c.put("a.key", fresh.Key) }, false, true},
		"garbage":          {func(c *certified) { c.put("a.pem", []byte("garbage")) }, false, true},
		"gone":             {func(c *certified) { os.Remove(c.path("a.key")) }, false, true},
		"expired":          {func(c *certified) { c.putPair("a", selfsigned.New(t, time.Now().Add(-time.Hour), "example.com")) }, false, true},
		"not valid yet":    {func(c *certified) { c.putPair("a", selfsigned.New(t, time.Now().Add(31*24*time.Hour), "example.com")) }, false, true},
		"one, then the other": {func(c *certified) {
			c.put("a.pem", fresh.Certificate)
			c.Refresh()
			c.gives("example.com", old)
			c.put("a.key", fresh.Key)
		}, true, false},
		"garbage, then good": {func(c *certified) {
			c.put("a.pem", []byte("garbage"))
			c.Refresh()
			c.putPair("a", fresh)
		}, true, false},
		"good again": {func(c *certified) {
			c.put("a.pem", []byte("garbage"))
			c.Refresh()
			c.put("a.pem", old.Certificate)
			c.Refresh()
			c.put("a.pem", []byte("garbage"))
		}, false, true},
		"by symlink": {func(c *certified) {
			for name, content := range map[string][]byte{"a.pem": fresh.Certificate, "a.key": fresh.Key} {
				c.put("live."+name, content)
				os.Remove(c.path(name))
				if err := os.Symlink("live."+name, c.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}, true, false},
		"in place": {func(c *certified) {
			os.WriteFile(c.path("a.pem"), fresh.Certificate, 0o600)
			os.WriteFile(c.path("a.key"), fresh.Key, 0o600)
			os.Chtimes(c.path("a.pem"), time.Time{}, time.Now().Add(time.Second))
		}, true, false},
		"in place, with nothing but the content changed": {func(c *certified) {
			long := func(pem []byte) []byte {
				return append(slices.Clone(pem), bytes.Repeat([]byte("\n"), 4096-len(pem))...)
			}
			for name, pair := range map[string][2][]byte{"a.pem": {old.Certificate, fresh.Certificate}, "a.key": {old.Key, fresh.Key}} {
				c.put(name, long(pair[0]))
				os.Chtimes(c.path(name), time.Unix(1, 0), time.Unix(1, 0))
			}
			c.Refresh()
			for name, content := range map[string][]byte{"a.pem": fresh.Certificate, "a.key": fresh.Key} {
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
			c.gives("example.com", map[bool]selfsigned.Pair{false: old, true: fresh}[test.fresh])
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

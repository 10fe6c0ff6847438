package tls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Certificates that are replaced while the service runs, in each way in which people do that.

// renewed is a pair of files whose certificate is replaced now and then.
type renewed struct {
	name              string // that of the certificate, and how it is replaced
	certFile, keyFile string
	replace           func(t *testing.T, cert, key []byte)
	cert, key         []byte
	before            []byte // the certificate that clients may still see
	expires           time.Duration
	mu                sync.Mutex
	generation        int
}

// look is how often the service looks at the files, and some time on top.
const look = 20 * time.Second

// newRenewed lays out pairs that are replaced by renames, by a symlink as certbot has it, and in place.
func newRenewed(t *testing.T) (all []*renewed) {
	t.Helper()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	{
		dir := t.TempDir()
		r := &renewed{name: "rename.test", certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
		r.replace = func(t *testing.T, cert, key []byte) {
			t.Helper()
			files.Put(t, key, r.keyFile, 0o600)
			files.Put(t, cert, r.certFile, 0o644)
		}
		all = append(all, r)
	}
	{ // live/NAME/fullchain.pem -> ../../archive/NAME/fullchain3.pem
		dir := t.TempDir()
		live, archive := filepath.Join(dir, "live", "symlink.test"), filepath.Join(dir, "archive", "symlink.test")
		must(t, os.MkdirAll(live, 0o700))
		must(t, os.MkdirAll(archive, 0o700))
		r := &renewed{name: "symlink.test", certFile: filepath.Join(live, "fullchain.pem"), keyFile: filepath.Join(live, "privkey.pem")}
		number := 0
		r.replace = func(t *testing.T, cert, key []byte) {
			t.Helper()
			number++
			for kind, content := range map[string][]byte{"privkey": key, "fullchain": cert} {
				file := fmt.Sprintf("%s%d.pem", kind, number)
				must(t, os.WriteFile(filepath.Join(archive, file), content, 0o600))
				link := filepath.Join(live, kind+".pem")
				os.Remove(link) // certbot does so, and leaves an instant without one
				must(t, os.Symlink(filepath.Join("../../archive/symlink.test", file), link))
			}
		}
		all = append(all, r)
	}
	{ // a directory that is a symlink, as Kubernetes and Let's Encrypt clients other than certbot have it
		dir := t.TempDir()
		current := filepath.Join(dir, "current")
		r := &renewed{name: "directory.test", certFile: filepath.Join(current, "tls.crt"), keyFile: filepath.Join(current, "tls.key")}
		number := 0
		r.replace = func(t *testing.T, cert, key []byte) {
			t.Helper()
			number++
			target := filepath.Join(dir, fmt.Sprint(number))
			must(t, os.Mkdir(target, 0o700))
			must(t, os.WriteFile(filepath.Join(target, "tls.crt"), cert, 0o600))
			must(t, os.WriteFile(filepath.Join(target, "tls.key"), key, 0o600))
			must(t, os.Symlink(target, current+".new"))
			must(t, os.Rename(current+".new", current))
		}
		all = append(all, r)
	}
	{
		dir := t.TempDir()
		r := &renewed{name: "place.test", certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
		r.replace = func(t *testing.T, cert, key []byte) {
			t.Helper()
			for file, content := range map[string][]byte{r.certFile: cert, r.keyFile: key} {
				f, err := os.Create(file) // truncates
				must(t, err)
				_, err = f.Write(content[:len(content)/2])
				must(t, err)
				time.Sleep(20 * time.Millisecond)
				_, err = f.Write(content[len(content)/2:])
				must(t, err)
				must(t, f.Close())
			}
		}
		all = append(all, r)
	}
	for _, r := range all {
		r.renew(t)
	}
	return all
}

// renew replaces the pair by a new one, which is valid for a time of its own.
func (r *renewed) renew(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	r.generation++
	valid := certificate.Validity{From: -time.Hour, To: time.Duration(100*r.generation+10*len(r.name)) * time.Hour}
	r.before = r.cert
	r.cert, r.key = certificate.Pair(t, certificate.EcdsaKey.Make(t), valid, r.name)
	r.expires = valid.To
	r.mu.Unlock()
	r.replace(t, r.cert, r.key)
}

// is tells whether the client was given the present certificate; an error if neither that nor the one before.
func (r *renewed) is(state tls.ConnectionState) (present bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: state.PeerCertificates[0].Raw})
	switch {
	case bytes.Equal(got, r.cert):
		return true, nil
	case bytes.Equal(got, r.before):
		return false, nil
	}
	return false, fmt.Errorf("for %s: got a certificate for %v that expires at %v", r.name, state.PeerCertificates[0].DNSNames, state.PeerCertificates[0].NotAfter)
}

// asking is a client that asks for the name, and trusts what is to come; is tells whether it should.
func (r *renewed) asking() *tls.Config {
	return &tls.Config{ServerName: r.name, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, VerifyConnection: func(state tls.ConnectionState) error {
		_, err := r.is(state)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AddCert(state.PeerCertificates[0])
		_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: r.name, Roots: roots})
		return err
	}}
}

func pairs(all []*renewed) service.Option {
	return func(s *service.Setup) {
		s.Listen = []string{"HOST:PORT", "tls:HOST:PORT"}
		for _, r := range all {
			s.Args = append(s.Args, "-tls-cert", r.certFile, "-tls-key", r.keyFile)
		}
	}
}

func TestCertificatesAreReplaced(t *testing.T) {
	tier.Slow(t, "replaces certificates in every way")
	t.Parallel()
	all := newRenewed(t)
	b := service.Start(t, pairs(all), service.Files(t), service.Args("-idle-grace", "5s")) // nobody is silent, but a client may be slow
	presents := func(r *renewed) bool {
		t.Helper()
		state, err := visit(b.Secure(), r.asking())
		if err != nil {
			t.Fatal(err)
		}
		present, err := r.is(state)
		if err != nil {
			t.Fatal(err)
		}
		return present
	}
	check := func(when string, within time.Duration) {
		t.Helper()
		for _, r := range all {
			if !await.Holds(within, func() bool {
				if presents(r) {
					return true
				}
				time.Sleep(50 * time.Millisecond) // each look is a handshake
				return false
			}) {
				t.Errorf("%s: %s is still the old one", when, r.name)
			}
			if got := certificateExpiresIn(b, r.name); got > r.expires.Seconds() || got < r.expires.Seconds()-600 {
				t.Errorf("%s: %s expires in: got %v, want about %v", when, r.name, got, r.expires.Seconds())
			}
		}
	}
	var clients []*tls.Config
	for _, r := range all {
		clients = append(clients, r.asking())
	}
	visits := keepVisiting(b.Secure(), clients, nil)
	check("at the start", 0)

	for _, r := range all {
		r.renew(t)
	}
	check("without an upgrade", look)

	for range tier.Times(t, "upgrades", 0, 1, 3) {
		for _, r := range all {
			r.renew(t)
		}
		b.Upgrade()
		check("after an upgrade", 0)
	}

	// An invalid pair is used by nobody; the next valid one is.
	for i, r := range all {
		old := [][]byte{r.cert, r.key}
		_, other := certificate.Pair(t, certificate.EcdsaKey.Make(t), certificate.ValidNow, r.name)
		r.replace(t, [][]byte{old[0], []byte("no certificate"), old[0][:len(old[0])/2], nil}[i%4], [][]byte{other, old[1], old[1], nil}[i%4])
	}
	pid := b.PID()
	u := b.TryUpgrade()
	if u.Code != 1 || !strings.Contains(u.Reason, "exit status 2") {
		t.Errorf("upgrade with invalid certificates: got exit code %d, %s, want 1 and a successor that exits with status 2", u.Code, u.Reason)
	}
	for _, r := range all {
		if said := strings.Join(u.Stderr, "\n"); !strings.Contains(said, r.certFile) {
			t.Errorf("upgrade with invalid certificates: got\n%s\nwant %s mentioned", said, r.certFile)
		}
	}
	warned := func() int { return strings.Count(b.Log(), "changed certificate is invalid") }
	await.Until(t, "a warning for each", func() bool { return warned() >= len(all) })
	check("while the files are invalid", 0)
	if b.PID() != pid {
		t.Errorf("pid %d serves, want still %d", b.PID(), pid)
	}
	for _, r := range all {
		r.renew(t)
	}
	check("mended, without an upgrade", look)
	b.Upgrade()
	check("mended, after an upgrade", 0)
	visits.end(t)
	if n := warned(); n != len(all) {
		t.Errorf("got %d warnings, want one for each of %d pairs", n, len(all))
	}
}

// The name that a client asks for picks the certificate; without one, and for a name of none, it is the first.
func TestNamesPickCertificates(t *testing.T) {
	t.Parallel()
	first, firstKey := certificate.Certificate(t, "first.test")
	second, secondKey := certificate.Certificate(t, "second.test", "*.second.test")
	rsaCert, rsaSecret := certificate.RsaKey.Certificate(t, certificate.ValidNow, "second.test")
	b := service.Start(t, service.Listen("HOST:PORT", "tls:HOST:PORT", "tls:HOST:PORT"), service.Files(t), service.Args("-idle-grace", "50ms",
		"-tls-cert", first, "-tls-key", firstKey, "-tls-cert", second+","+rsaCert, "-tls-key", secondKey+","+rsaSecret))
	onlyRSA := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	tests := []struct {
		asks   string
		suites []uint16 // of TLS 1.2
		want   string   // the file
	}{
		{"first.test", nil, first}, {"second.test", nil, second}, {"a.second.test", nil, second}, {"FIRST.test", nil, first},
		{"third.test", nil, first}, {"a.b.second.test", nil, first}, {"", nil, first},
		{"second.test", onlyRSA, rsaCert},
	}
	for generation := 1; generation <= 2; generation++ {
		for _, listen := range b.Setup.Listen[1:] {
			for _, tt := range tests {
				config := &tls.Config{ServerName: tt.asks, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
				if tt.suites != nil {
					config.CipherSuites, config.MaxVersion = tt.suites, tls.VersionTLS12
				}
				state, err := visit(strings.TrimPrefix(listen, "tls:"), config)
				if err != nil {
					t.Errorf("%s, asked for %q: %v", listen, tt.asks, err)
					continue
				}
				want, err := os.ReadFile(tt.want)
				if err != nil {
					t.Fatal(err)
				}
				if got := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: state.PeerCertificates[0].Raw}); !bytes.Equal(got, want) {
					t.Errorf("%s, asked for %q: got a certificate for %v", listen, tt.asks, state.PeerCertificates[0].DNSNames)
				}
			}
		}
		b.Upgrade()
	}
}

// certificateExpiresIn returns the time in seconds that the metrics give a certificate.
func certificateExpiresIn(b *service.Baton, name string) float64 {
	return b.Metric("baton_tls_certificate_not_after_timestamp_seconds", "name", name) - float64(time.Now().UnixMilli())/1000
}

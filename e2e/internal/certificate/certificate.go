// Package certificate makes certificates that nobody but a test trusts.
package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
)

// Certificate makes a self-signed pair for names, which may be addresses, and returns its files. Each call
// makes another pair, in a directory of its own. Without a name it is for that of the requests.
func Certificate(t testing.TB, names ...string) (certFile, keyFile string) {
	t.Helper()
	return certificateOf(t, EcdsaKey.Make(t), names...)
}

// certificateOf does so for a key that was made already.
func certificateOf(t testing.TB, key crypto.Signer, names ...string) (certFile, keyFile string) {
	t.Helper()
	if len(names) == 0 {
		names = []string{http1.Host}
	}
	return pairFiles(t, key, ValidNow, names...)
}

type KeyKind int

const (
	EcdsaKey KeyKind = iota // P-256
	RsaKey                  // 2048 bits
)

func (kind KeyKind) Make(t testing.TB) (key crypto.Signer) {
	t.Helper()
	var err error
	if kind == RsaKey {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Certificate makes a pair of files that is valid for a time.
func (kind KeyKind) Certificate(t testing.TB, valid Validity, names ...string) (certFile, keyFile string) {
	t.Helper()
	return pairFiles(t, kind.Make(t), valid, names...)
}

func pairFiles(t testing.TB, key crypto.Signer, valid Validity, names ...string) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, secret := Pair(t, key, valid, names...)
	files.Put(t, cert, certFile, 0o644)
	files.Put(t, secret, keyFile, 0o600)
	return certFile, keyFile
}

// Validity is when a certificate is valid, counted from now.
type Validity struct{ From, To time.Duration }

var ValidNow = Validity{-time.Hour, 24 * time.Hour}

// Pair makes a self-signed certificate of a key, and returns both in PEM.
func Pair(t testing.TB, key crypto.Signer, valid Validity, names ...string) (cert, secret []byte) {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]},
		NotBefore: now.Add(valid.From), NotAfter: now.Add(valid.To),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// Trusting returns what a client needs that asks for our name, trusts these certificates alone, and speaks these
// protocols of ALPN.
func Trusting(t testing.TB, certFiles []string, protocols ...string) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	for _, file := range certFiles {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !roots.AppendCertsFromPEM(content) {
			t.Fatalf("%s: no certificate", file)
		}
	}
	return &tls.Config{RootCAs: roots, ServerName: http1.Host, NextProtos: protocols}
}

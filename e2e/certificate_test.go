// Certificates: made for a test, and trusted by nobody else.
package e2e

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
)

// ourName is what every request names as its host, and most certificates are for. The admin listener answers
// to it as well.
const ourName = "e2e.localhost"

// certificate makes a self-signed pair for names, which may be addresses, and returns its files. Each call
// makes another pair, in a folder of its own. Without a name it is for that of the requests.
func certificate(t testing.TB, names ...string) (certFile, keyFile string) {
	t.Helper()
	return certificateOf(t, ecdsaKey.make(t), names...)
}

// certificateOf does so for a key that was made already.
func certificateOf(t testing.TB, key crypto.Signer, names ...string) (certFile, keyFile string) {
	t.Helper()
	if len(names) == 0 {
		names = []string{ourName}
	}
	return pairFiles(t, key, validNow, names...)
}

type keyKind int

const (
	ecdsaKey keyKind = iota // P-256
	rsaKey                  // 2048 bits
)

func (kind keyKind) make(t testing.TB) (key crypto.Signer) {
	t.Helper()
	var err error
	if kind == rsaKey {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate makes a pair of files that is valid for a time.
func (kind keyKind) certificate(t testing.TB, valid validity, names ...string) (certFile, keyFile string) {
	t.Helper()
	return pairFiles(t, kind.make(t), valid, names...)
}

func pairFiles(t testing.TB, key crypto.Signer, valid validity, names ...string) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, secret := pair(t, key, valid, names...)
	put(t, cert, certFile, 0o644)
	put(t, secret, keyFile, 0o600)
	return certFile, keyFile
}

// validity is when a certificate is valid, counted from now.
type validity struct{ from, to time.Duration }

var validNow = validity{-time.Hour, 24 * time.Hour}

// pair makes a self-signed certificate of a key, and returns both in PEM.
func pair(t testing.TB, key crypto.Signer, valid validity, names ...string) (cert, secret []byte) {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]},
		NotBefore: now.Add(valid.from), NotAfter: now.Add(valid.to),
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

// trusting returns what a client needs that asks for our name, trusts these certificates alone, and speaks these
// protocols of ALPN.
func trusting(t testing.TB, certFiles []string, protocols ...string) *tls.Config {
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
	return &tls.Config{RootCAs: roots, ServerName: ourName, NextProtos: protocols}
}

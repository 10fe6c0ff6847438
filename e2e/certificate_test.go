// Certificates: made for a test, and trusted by nobody else.
package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

// ourName is what every request names as its host, and most certificates are for.
const ourName = "e2e.test"

// certificate makes a self-signed pair for names, which may be addresses, and returns its files. Each call
// makes another pair, in a folder of its own. Without a name it is for that of the requests.
func certificate(t testing.TB, names ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return certificateOf(t, key, names...)
}

// certificateOf does so for a key that was made already.
func certificateOf(t testing.TB, key crypto.Signer, names ...string) (certFile, keyFile string) {
	t.Helper()
	if len(names) == 0 {
		names = []string{ourName}
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
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
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	put(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), certFile, 0o644)
	put(t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), keyFile, 0o600)
	return certFile, keyFile
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

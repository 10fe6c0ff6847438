package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"example.com/baton/e2e/internal/http1"
)

// A client trusts the certificates that it was given, for their names and their time, and no others.
func TestTrusting(t *testing.T) {
	valid, key := Certificate(t)
	named, namedKey := Certificate(t, "other.test")
	expired, expiredKey := EcdsaKey.Certificate(t, Validity{From: -2 * ValidNow.To, To: -ValidNow.To}, http1.Host)
	tests := []struct {
		name, cert, key, trusted string
		want                     bool
	}{
		{"its own", valid, key, valid, true},
		{"another", valid, key, named, false},
		{"wrong name", named, namedKey, named, false},
		{"expired", expired, expiredKey, expired, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pair, err := tls.LoadX509KeyPair(tt.cert, tt.key)
			if err != nil {
				t.Fatal(err)
			}
			config := Trusting(t, []string{tt.trusted})
			_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: config.RootCAs, DNSName: config.ServerName})
			if (err == nil) != tt.want {
				t.Errorf("verify: got %v, want success %v", err, tt.want)
			}
		})
	}
}

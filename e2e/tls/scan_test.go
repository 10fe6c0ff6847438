package tls

import (
	"encoding/xml"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// TLS as sslscan sees it, which tries what weak there is.

// suites are those that may be accepted: keys are made for the session alone. Of TLS 1.2 there are the ones with
// CBC and SHA-1 in HMAC as well, as Go has it: they come last, HTTP/2 is disabled with them, and no scanner takes
// them for weak.
var suites = map[string]*regexp.Regexp{
	"TLSv1.3": regexp.MustCompile(`^TLS_(AES_128_GCM_SHA256|AES_256_GCM_SHA384|CHACHA20_POLY1305_SHA256)$`),
	"TLSv1.2": regexp.MustCompile(`^ECDHE-(?:ECDSA|RSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305|AES(128|256)-SHA)$`),
}

func TestTLSScan(t *testing.T) {
	tier.Slow(t, "runs sslscan")
	t.Parallel()
	sslscan := tier.Tool(t, "sslscan")
	cert, key := certificate.Certificate(t)
	certRSA, keyRSA := certificate.RsaKey.Certificate(t, certificate.ValidNow, http1.Host) // for which there are weaker suites
	b := service.Start(t, service.Listen("tls:HOST:PORT"), service.Args("-tls-cert", cert, "-tls-key", key, "-tls-cert", certRSA, "-tls-key", keyRSA))
	address := strings.TrimPrefix(b.Setup.Listen[0], "tls:")
	cmd := exec.Command(sslscan, "--no-colour", "--xml=-", "--sni-name="+http1.Host, address)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sslscan: %v\n%s", err, out)
	}
	type protocol struct {
		Type    string `xml:"type,attr"`
		Version string `xml:"version,attr"`
	}
	var got struct {
		Protocols []struct {
			protocol
			Enabled bool `xml:"enabled,attr"`
		} `xml:"ssltest>protocol"`
		Fallback *struct {
			Supported bool `xml:"supported,attr"`
		} `xml:"ssltest>fallback"`
		Renegotiation struct {
			Supported string `xml:"supported,attr"`
		} `xml:"ssltest>renegotiation"`
		Compression *struct {
			Supported bool `xml:"supported,attr"`
		} `xml:"ssltest>compression"`
		Heartbleed []struct {
			Vulnerable bool `xml:"vulnerable,attr"`
		} `xml:"ssltest>heartbleed"`
		Ciphers []struct {
			Status   string `xml:"status,attr"`
			Version  string `xml:"sslversion,attr"`
			Name     string `xml:"cipher,attr"`
			Bits     int    `xml:"bits,attr"`
			Strength string `xml:"strength,attr"`
			Curve    string `xml:"curve,attr"`
		} `xml:"ssltest>cipher"`
		Groups []struct {
			Name string `xml:"name,attr"`
			Bits int    `xml:"bits,attr"`
		} `xml:"ssltest>group"`
	}
	if err := xml.Unmarshal(out, &got); err != nil {
		t.Fatalf("sslscan: %v\n%s", err, out)
	}
	defer func() {
		if t.Failed() {
			t.Logf("sslscan says:\n%s", out)
		}
	}()

	var spoken []protocol
	for _, p := range got.Protocols {
		if p.Enabled {
			spoken = append(spoken, p.protocol)
		}
	}
	if len(got.Protocols) != 6 || !slices.Equal(spoken, []protocol{{"tls", "1.2"}, {"tls", "1.3"}}) {
		t.Errorf("of %d protocols tried, got %v, want TLS 1.2 and 1.3", len(got.Protocols), spoken)
	}
	if got.Renegotiation.Supported != "0" {
		t.Errorf("renegotiation: got %q, want none", got.Renegotiation.Supported)
	}
	if got.Compression != nil && got.Compression.Supported {
		t.Error("got compression, which gives secrets away")
	}
	if got.Fallback != nil && !got.Fallback.Supported {
		t.Error("a client that falls back to an older version is not stopped")
	}
	if len(got.Heartbleed) != 2 {
		t.Errorf("heartbleed was tried %d times, want 2", len(got.Heartbleed))
	}
	for _, h := range got.Heartbleed {
		if h.Vulnerable {
			t.Error("heartbleed")
		}
	}
	seen := make(map[string]int)
	for _, c := range got.Ciphers {
		seen[c.Version]++
		want := suites[c.Version]
		if want == nil || !want.MatchString(c.Name) || c.Bits < 128 || c.Curve == "" {
			t.Errorf("%s: got %s with %d bits and curve %q", c.Version, c.Name, c.Bits, c.Curve)
		}
		if c.Strength != "strong" && c.Strength != "acceptable" {
			t.Errorf("%s: %s is %s", c.Version, c.Name, c.Strength)
		}
		if c.Status == "preferred" && c.Version == "TLSv1.2" && c.Strength != "strong" {
			t.Errorf("prefers %s, which is %s", c.Name, c.Strength)
		}
	}
	if seen["TLSv1.3"] != 3 || seen["TLSv1.2"] != 10 {
		t.Errorf("got %v suites, want 3 of TLS 1.3 and 10 of TLS 1.2", seen)
	}
	if len(got.Groups) == 0 {
		t.Error("no group for the exchange of keys was found")
	}
	for _, g := range got.Groups {
		if g.Bits < 128 {
			t.Errorf("group %s has %d bits", g.Name, g.Bits)
		}
	}
}

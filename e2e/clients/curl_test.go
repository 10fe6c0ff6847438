package clients

import (
	"path/filepath"
	"testing"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/tier"
)

// One curl makes many requests on one connection, and says of each whether it had to connect. By prior knowledge of
// HTTP/2, curl 7.88 fails with its second request on a connection, whatever the server.
func TestCurl(t *testing.T) {
	tier.Slow(t, "starts many processes")
	t.Parallel()
	path := tier.Tool(t, "curl")
	s := newStage(t)
	upload := filepath.Join(s.Dir, "upload")
	files.Put(t, exchange.Pattern(100_000), upload, 0o600)
	for _, way := range []struct{ name, flag, scheme, address string }{
		{"HTTP/1.1", "--http1.1", "http", s.Address},
		{"HTTP/1.1 over TLS", "--http1.1", "https", s.Secure()},
		{"HTTP/2 over TLS", "--http2", "https", s.Secure()},
	} {
		for _, what := range []struct {
			name, path string
			args       []string
		}{
			{"GET", "/fixed/5000?[1-100000000]", []string{"--rate", "100/s"}},
			{"download", "/drip/200000?[1-100000000]", nil},
			{"upload", "/echo?[1-100000000]", []string{"--data-binary", "@" + upload, "--limit-rate", "500k", "-H", "Expect:"}},
		} {
			s.run("curl, "+what.name+" by "+way.name, false, append([]string{path, way.flag, "--silent", "--show-error", "--fail", "--output", "/dev/null",
				"--cacert", s.certFile, "--connect-to", "::" + way.address,
				"--write-out", "%{stderr}ok %{http_code} %{num_connects} %{local_port}\n",
				way.scheme + "://" + http1.Host + what.path}, what.args...)...)
		}
	}
	s.throughUpgrades(len(s.clients))
}

package clients

import (
	"testing"

	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/tier"
)

func TestNode(t *testing.T) {
	tier.Slow(t, "asks another program to be the client")
	t.Parallel()
	path := tier.Tool(t, "node")
	s := newStage(t)
	for protocol, address := range map[string]string{"https": s.Secure(), "h2": s.Secure(), "h2c": s.Address} {
		s.run("Node, "+protocol, true, path, "testdata/client.mjs", protocol, address, http1.Host, s.certFile)
	}
	s.throughUpgrades(len(s.clients))
}

func TestJava(t *testing.T) {
	tier.Slow(t, "compiles the client")
	t.Parallel()
	path := tier.Tool(t, "java")
	s := newStage(t)
	for _, version := range []string{"HTTP_1_1", "HTTP_2"} {
		// The service's address is not in its certificate.
		s.run("Java, "+version, true, path, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Djdk.internal.httpclient.disableHostnameVerification=true", "testdata/Client.java",
			version, "https://"+s.Secure(), s.certFile)
	}
	s.throughUpgrades(len(s.clients))
}

// Package tls tests the promise for HTTP/1.1 over TLS:
//
//	No request fails. Connections over TLS 1.3 migrate; where they cannot, the client's
//	next connection resumes its TLS session. Handshakes that are under way finish.
package tls

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }

// Package http2 tests the promise for HTTP/2, over TLS and by prior knowledge without it:
//
//	No request fails or is refused, no stream is cut before the drain timeout. A
//	connection that cannot migrate ends in the two steps of RFC 9113, section 6.8.
package http2

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }

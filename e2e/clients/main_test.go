// Package clients tests the promise of connections that migrate with clients that others have written:
//
//	Each goes on, through upgrades under load, on the connection that it began with.
//
// They are OpenSSL's s_client, and Python's ssl; gnutls-cli; curl; nghttp2's h2load; those of Go, Node and Java. The
// browser is in e2e/streams.
package clients

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }

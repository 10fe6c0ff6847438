// Package streams tests the promise for what lasts longer than a request:
//
//	WebSockets and other upgraded connections migrate. Those that do not, and all in a
//	stop, live on until they end, or until -websocket-grace or the drain timeout is
//	over. Then both sides of a proxied WebSocket get a close frame with status 1001,
//	between two messages.
//
// with clients that are written by hand, and with a browser.
package streams

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m, endBrowser) }

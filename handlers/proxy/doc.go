// Package proxy is a reverse proxy for applications in any language.
//
// A [Rule] gives the paths below a prefix to a backend. The longest prefix that covers a path
// counts. Servers disagree on how a path is to be read: whether it is decoded once or more,
// what dots, backslashes, empty elements and parameters mean. The proxy computes all of these
// readings, and a path is answered 400 if a backend might resolve it to one that the rule
// does not cover or that another rule does.
//
// A request keeps its Host, gets X-Forwarded-For, -Host and -Proto set afresh, and loses
// Forwarded. If it has come from a trusted proxy, they are kept, and the list of addresses is extended
// ([example.com/baton/handlers/forwarded]): a backend should count from its right end. A request loses all
// fields whose names have other characters than letters, digits and hyphens, because
// backends confuse X_Forwarded_For with X-Forwarded-For. To a response the proxy adds
// X-Request-Id, and no Content-Type or Date. A URL with a path replaces the prefix, with one
// slash between the two: with /b/=http://127.0.0.1:3000/ the backend gets /x for /b/x.
// WebSockets and other upgrades pass, except those to HTTP/2 (h2c) and TLS, which would get
// past the rules.
//
// Several rules with the same prefix lead to several backends. A request goes to the one with the
// fewest requests in progress. A backend that accepts no connections, or fails its health path
// ([Options].HealthPath) twice, gets none until it is back; so does one that answers 503 with
// Connection: close, which is how some servers begin a graceful stop. If there is no other, a
// request waits, and goes on within some 10 ms of the backend's return. A request goes to another
// backend if no byte of it was sent, or if its method is idempotent, no byte of a response has come,
// and its body is still there: at most three times, and never after the header timeout.
// Nothing else is sent twice. Package pool below internal has the details.
//
// When no backend has come in time, or 1,000 requests wait, the answer is 503 with Retry-After. A
// backend that loses the connection, or answers nonsense, is answered 502, one that is slow 504.
//
// In an upgrade WebSockets and other upgraded connections to backends without TLS migrate with
// both sockets ([Tunnels], [Resume]): what was read at one end and not written to the other, at
// most 16 KiB in each direction, travels along, and the positions in the frames of both. A
// client or backend that does not read holds nobody. One that does not migrate is drained, as all
// are in a stop.
//
// In a drain a WebSocket gets a close frame with status 1001, between two messages, and an
// event stream ends between two events, so that the browser reconnects to the successor.
package proxy

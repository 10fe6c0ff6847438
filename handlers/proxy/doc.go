// Package proxy is a reverse proxy for applications in any language.
//
// A [Rule] gives the paths below a prefix to a backend. The longest prefix that covers a path
// counts. Servers disagree on how a path is to be read: whether it is decoded once or more,
// what dots, backslashes, empty elements and parameters mean. The proxy computes all of these
// readings, and a path is answered 400 if a backend might resolve it to one that the rule
// does not cover or that another rule does.
//
// A request keeps its Host, gets X-Forwarded-For, -Host and -Proto set afresh, and loses all
// fields whose names have other characters than letters, digits and hyphens, because
// backends confuse X_Forwarded_For with X-Forwarded-For. To a response the proxy adds
// X-Request-Id, and no Content-Type or Date. A URL with a path replaces the prefix, with one
// slash between the two: with /b/=http://127.0.0.1:3000/ the backend gets /x for /b/x.
// WebSockets and other upgrades pass, except those to HTTP/2 (h2c) and TLS, which would get
// past the rules. A backend that is down is answered 502, one that is slow 504.
//
// In an upgrade WebSockets and other upgraded connections to backends of http URLs migrate with
// both sockets ([Tunnels], [Resume]): what was read at one end and not written to the other, at
// most 16 KiB in each direction, travels along, and the positions in the frames of both. A
// client or backend that does not read holds nobody. One that does not migrate is drained, as all
// are in a stop.
//
// In a drain a WebSocket gets a close frame with status 1001, between two messages, and an
// event stream ends between two events, so that the browser reconnects to the successor.
package proxy

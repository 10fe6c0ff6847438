// Package server serves HTTP/1.1 and HTTP/2, with TLS and without, so that a process can stop
// serving without losing a request, and without closing a connection if another process goes
// on.
//
// net/http's own Shutdown loses requests: once it has begun, a request that was just read gets
// no answer, and so does one that arrives on a connection which looked idle. [Server] therefore
// keeps an account of every connection from Accept on, and ends each at a point where nothing
// can be lost:
//
//   - It stops accepting, and only then counts: what was accepted in the same instant is served
//     like the rest.
//   - If a successor takes connections ([upgrade.Handoff]), each migrates when it is next at
//     rest: net/http certainly holds no byte of a request. An idle connection is at rest and
//     migrates at once, a busy one after its response. Its client notices nothing: it is the
//     same socket, and what it sends meanwhile waits in the kernel for the successor.
//
// A connection cannot migrate if there is no such successor, if the successor refuses it, or if
// its client pipelines so that it does not come to rest within the idle grace and a few
// responses. Then:
//
//   - A response whose header is written from then on carries "Connection: close", also when
//     its request came before.
//   - If no request is under way, the connection stays open for the idle grace. A client that
//     is about to send a request gets a response with "Connection: close"; then the idle socket
//     is closed, after a last look for bytes that have arrived.
//   - A client that has sent more than the request whose response announces the end still gets
//     that response whole. What else it sent is not answered: RFC 9112, section 9.6.
//
// And for all:
//
//   - A connection that has sent part of a request has until its header timeout.
//   - Handlers that stay long are notified of the drain by [Draining] and [OnDrain].
//   - Shutdown is called when no connection is left.
//   - What remains when the drain's context ends is closed forcibly, and counted as such.
//
// A connection over TLS is drained like any other, but does not migrate. One whose handshake is
// under way has the time of a header to complete it and to send its request.
//
// HTTP/2 can end a connection without leaving anything to chance. A GOAWAY first asks the
// client to make no more requests; after a round trip, or the idle grace if the client does not
// answer, another one names the last request that is processed: RFC 9113, section 6.8. Requests
// under way are completed, and a second after that the connection is closed. net/http, which
// serves HTTP/2, sends the second GOAWAY only; [Server.Check] proves that the first fits to it.
//
// # How it is built
//
// A connection is a stack of layers, each a net.Conn over the one below, which also says
// whether it holds a part of something and what a successor needs to rebuild it: the socket
// (socket.go), TLS (tls.go), the follower of HTTP/1 (http1.go) or HTTP/2 (http2.go), and the
// account, which net/http has (conn.go). Package boundary below internal recognizes by how
// net/http reads when an HTTP/1 connection is at rest; it decides, and http1.go does. Check
// tries out that net/http reads as expected. If a Go release should ever read otherwise, it
// logs that, and connections are closed as above.
//
// Why a connection was closed is one line of reason.go. What ends a drain is drain.go, and
// migrate.go is what offers connections to the successor.
//
// # What is not promised
//
// A client that sends a request in the very moment in which its idle connection is closed loses
// it, as with any server that closes; the idle grace is how long it had to avoid that. A
// response that the handler began to write before the drain cannot be given "Connection: close"
// any more; its connection stays open for the idle grace.
package server

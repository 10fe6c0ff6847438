// Package server serves HTTP/1.1 and HTTP/2, with TLS and without, so that a
// process can stop serving without losing a request, and without closing a
// connection if another process goes on.
//
// net/http's own Shutdown loses some: once it has begun, a request that was
// just read gets no answer, and so does one that arrives on a connection which
// looked idle. [Server] therefore keeps its own account of every connection,
// from the moment that it was accepted, and ends each at a point where nothing
// can be lost:
//
//   - It stops accepting, and only then counts: what was accepted in the same
//     instant is served like the rest.
//   - If a successor takes connections ([upgrade.Handoff]), each moves there at its
//     next safe point: where net/http certainly holds no byte of a request. One
//     that is silent is at such a point and moves at once, one that is busy moves
//     after its response. Its client notices nothing: it is the same socket, and
//     what it sends meanwhile waits in the kernel for the successor.
//
// For a connection that cannot move, since there is no such successor, it refuses,
// or its client sends ahead of the answers so that no safe point comes within the
// idle grace and a few answers:
//
//   - A response whose header is written from then on carries
//     "Connection: close", also when its request came before.
//   - If nothing is under way, it stays for the idle grace. A
//     client about to speak gets its answer, with the announcement; then the
//     silent socket is destroyed, after a last look for bytes that have arrived.
//   - A client that has sent more than the request whose answer announces the end
//     still gets that answer whole. What else it sent is not answered, as
//     RFC 9112, section 9.6 has it.
//
// And for all:
//
//   - A connection that has sent part of a request has until its header timeout.
//   - Handlers that stay long learn of the drain from [Draining].
//   - Shutdown is called when no connection is left.
//   - What remains when the drain's context ends is cut, and counted as such.
//
// Safe points are recognised by how net/http reads. [Server.Check] tries out that
// it does so; if a Go release should ever read otherwise, it says so in the log,
// and connections are closed as told above.
//
// A connection over TLS is drained like any other, but never moves. One whose
// handshake is under way has the time of a header to finish it and to send its
// request.
//
// HTTP/2 has words for the end of a connection, so that nothing is left to chance.
// A client is first told by a GOAWAY to make no more requests, and after a round
// trip, or the idle grace if it does not answer, which was the last that is
// processed: RFC 9113, section 6.8. What is under way is finished; a second after
// that the connection is closed. net/http, which serves HTTP/2, has only the
// second half of this; [Server.Check] proves that the first fits to it.
//
// What is not promised: a client that sends a request in the very moment in
// which its silent connection is destroyed loses it, as with any server that
// closes; the idle grace is how long it had to avoid that. A response that the
// handler began to write before the drain cannot be given the announcement any
// more; its connection stays for the idle grace.
package server

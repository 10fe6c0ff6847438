// Package server serves HTTP/1.1 connections so that a process can stop
// serving without losing a request.
//
// net/http's own Shutdown loses some: once it has begun, a request that was
// just read gets no answer, and so does one that arrives on a connection which
// looked idle. [Server] therefore keeps its own account of every connection,
// from the moment that it was accepted, and ends each at a point where nothing
// can be lost:
//
//   - It stops accepting, and only then counts: what was accepted in the same
//     instant is served like the rest.
//   - A response whose header is written from then on carries
//     "Connection: close", also when its request came before.
//   - A connection on which nothing is under way stays for the idle grace. A
//     client about to speak gets its answer, with the announcement; then the
//     silent socket is destroyed, after a last look for bytes that have arrived.
//   - A client that has sent more than the request whose answer announces the end
//     still gets that answer whole. What else it sent is not answered, as
//     RFC 9112, section 9.6 has it.
//   - A connection that has sent part of a request has until its header timeout.
//   - Handlers that stay long learn of the drain from [Draining].
//   - Shutdown is called when no connection is left.
//   - What remains when the drain's context ends is cut, and counted as such.
//
// What is not promised: a client that sends a request in the very moment in
// which its silent connection is destroyed loses it, as with any server that
// closes; the idle grace is how long it had to avoid that. A response that the
// handler began to write before the drain cannot be given the announcement any
// more; its connection stays for the idle grace.
package server

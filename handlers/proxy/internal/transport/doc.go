// Package transport speaks HTTP/1.1 to one backend, in its caller's goroutine.
//
// It is there because a proxy has to know what [http.Transport] does not report: how far a request
// that failed has got ([ProgressOf]), and when the next read of a response would wait for the
// backend, which is the moment to flush what the client has not got yet ([Transport.RoundTrip]).
// Without a goroutine for each direction of each connection it is also cheaper. Only the body of a
// request, if it has one, is sent by a goroutine, because the backend may answer before it has it.
//
// How a response is parsed is net/http's business ([http.ReadResponse]): there is one idea of what
// is well-formed, and of where a body ends.
//
// A connection is used again if both sides want to and both messages were complete. Idle ones are
// checked for an end, or bytes that nobody has asked for, before a request is written to them. They
// are closed after four seconds, which is less than what usual backends allow (Node.js: five), or
// in four fifths of the time that a backend's Keep-Alive field promises. A backend may still
// close a connection while a request is on its way: that request fails with [Sent], and whether it
// may be repeated is the caller's decision.
package transport

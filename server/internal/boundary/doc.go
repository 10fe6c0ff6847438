// Package boundary decides where one request on an HTTP/1 connection ends and the next
// has not begun: the points at which the connection may be given to another process, or
// closed, without losing a byte.
//
// net/http does not tell. It reads the beginning of a request into a buffer of its own, so
// that neither its ConnState nor the socket shows whether bytes would be lost. But its calls
// do. [Machine] is the state machine that they drive: the Reads of net/http and the length
// of their buffers, its read deadlines and its ConnStates, and what the socket returned. It
// answers with an [Action] for each. It performs no I/O, has no clock, no lock and no
// goroutine, so that every race is a sequence of calls in a table test.
//
// # When nothing is held
//
// A connection is at rest ([AtRest]) when net/http calls Read and certainly holds no byte of
// a request, and no layer below holds part of one. There are two such Reads:
//
//   - The first one of a connection.
//   - The first one after net/http has reported StateIdle, if net/http has set one read
//     deadline since, that for idleness, and if it reads into the whole of its buffer. A
//     second deadline is that for a header whose beginning has come; a shorter buffer is
//     partly filled, by a client that pipelines or by the byte of a background read.
//
// The length of the whole buffer is that of the first Read that does not look for the
// preface of HTTP/2, plus what was delivered before.
//
// # Who wants a connection at rest
//
// Before the reader blocks ([Machine.Block]) it may offer the connection to a successor
// ([Machine.Offer]). A reader that is blocked already is woken ([Machine.Wake]) by a read
// deadline in the past, of which net/http never learns: bytes that arrived are served, the
// deadline that net/http wanted is restored, and only if nothing arrived, the reader itself
// offers or closes the connection. Nobody but the reader decides this, because nobody else
// knows whether a Read has just returned bytes.
//
// # What a layer owes to the one above
//
// Migration asks every layer of a connection the same two questions: is it at rest, and what
// does another process need to rebuild it. For HTTP/1 the answers are [Machine.Export] and
// [Adopt]. A layer that cannot be rebuilt, as that of crypto/tls, exports nothing, and its
// connection stays. A layer above another is at rest only if that one is, which the caller of Read and
// Returned reports.
package boundary

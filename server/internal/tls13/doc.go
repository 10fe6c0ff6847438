// Package tls13 is the record layer of TLS 1.3 (RFC 8446, section 5) without the handshake,
// so that an established connection can go on in another process.
//
// crypto/tls performs the handshake, and [New] takes over from the first application byte
// on. From then on the whole state of the connection is a [State]: the cipher suite, and for
// each direction a secret and a sequence number.
//
// # Migration
//
// [Conn.Export] returns the state of a connection that is at rest: no part of a record has
// been read, nothing that was read is left to deliver, no write is under way and writing has
// not ended. Until the receiver has answered, the connection blocks, because a nonce that is
// used by two processes breaks the encryption. Then either [Conn.Resume] lets it go on here,
// or [Conn.Discard] ends it: secrets are zeroed, every Read returns io.EOF and every Write
// fails without having written anything.
//
// # Keys
//
// Keys change when the peer sends a KeyUpdate, and before a key has protected as many records
// as RFC 8446, section 5.5, allows. A peer that requests a KeyUpdate gets it with the next
// application data, as section 4.6.3 allows, and one for all requests until then: a Read never
// waits for a Write, whatever the peer does not read.
//
// Secrets never leave the package but by Export. A [Secret] does not format, and neither does
// a connection. Keys that are no longer used are dropped; the memory of those that the
// standard library has expanded is left to the garbage collector.
//
// # Errors
//
// A violation of the protocol ends the connection with the alert that RFC 8446 prescribes. As
// with crypto/tls, the error is a [net.OpError] whose Err is a [tls.AlertError], of Op "local
// error" if the alert was sent, "remote error" if it was received.
package tls13

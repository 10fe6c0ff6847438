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
// A connection over TLS migrates together with the state of its record layer. One whose
// handshake is under way has the time of a header to complete it and to send its request.
//
// HTTP/2 can end a connection without leaving anything to chance. A GOAWAY first asks the
// client to make no more requests; after a round trip, or the idle grace if the client does not
// answer, another one names the last request that is processed: RFC 9113, section 6.8. Requests
// under way are completed, and a second after that the connection is closed. net/http, which
// serves HTTP/2, sends the second GOAWAY only; [Server.Check] proves that the first fits to it.
//
// # How a connection migrates
//
//	client          predecessor                            successor
//	  |                  |      listening sockets, link        |
//	  |                  | ==================================> |  starts, checks itself
//	  |                  | <------------ serving ------------- |  accepts
//	  |   GET /a         |                                     |
//	  | ---------------> |                                     |
//	  | <--------------- |  200, no Connection: close          |
//	  |                  |  idle, and net/http holds no byte   |
//	  |                  | ------- offer + socket -----------> |
//	  |                  | <------- accepted ----------------- |
//	  |                  |  closes its copy                    |  reads
//	  |   GET /b         |                                     |
//	  | -----------------------------------------------------> |
//	  | <----------------------------------------------------- |  200, on the same connection
//
// # Sessions of migration
//
// Connections migrate in a session, which begins with [Server.Share] or [Server.Drain]. Share is
// for a successor that is being tried, and may be taken back: nothing is closed in its sessions,
// no response carries "Connection: close", no GOAWAY is sent, and what cannot migrate is served as
// if there were no successor. [Server.Reclaim] ends them, any number of times, and the successor
// returns what it has by its own Drain. The drain's session is the last, and only in that one
// everything ends.
//
//	Share(h, 0.1)  a random tenth of the connections migrates; the server goes on accepting
//	Share(h, 1)    all of them migrate; the listeners are paused
//	Reclaim()      they accept again, nothing migrates
//	Drain(ctx, h)  all that is left migrates or is ended
//
// A connection is offered once in a session. One of HTTP/2 that is chosen has requests held as
// told below, at most four times in a session: then it migrates only if it comes to rest by itself.
// Tunnels migrate in a drain only.
//
// # What happens to each protocol in an upgrade
//
// HTTP/1.1 without TLS, TCP and unix, idle or busy, migrates; so do connections that have sent
// nothing yet. The idle timeout goes on where it was, and the header timeout begins with the
// first byte of a request. The predecessor keeps its copy until the successor has accepted the
// connection, and reads on if the successor refuses it or dies before. A request that still
// runs at the drain timeout is closed forcibly.
//
// HTTP/1.1 over TLS 1.3 migrates as well. crypto/tls performs the handshake; the record layer
// that follows is package tls13 below internal, whose state, a secret and a sequence number for
// each direction, is sent over the link. Between an offer and its answer nothing is written, not
// even a close_notify, so that a key has one writer at any time. In the successor a request's
// TLS field has the version, the cipher suite, the protocol, the server name and the client's
// certificates of the handshake; ExportKeyingMaterial returns an error, because crypto/tls
// keeps the secret for it. The successor admits a client as crypto/tls does when a session is
// resumed: the certificates that its configuration asks for are verified anew, and
// GetConfigForClient, which gets what is still known of the client's hello, and
// VerifyConnection are called. A client that is not admitted stays with the predecessor and is
// drained.
//
// HTTP/1.1 over TLS 1.2 is drained, as is all TLS with [Options.DisableMigration], or if a self-test at the
// start fails: the record layer is then that of crypto/tls. The next response carries
// "Connection: close"; an idle connection gets close_notify after the idle grace. The next
// connection of the client resumes its TLS session (package tlskeys).
//
// HTTP/2 migrates when no stream is open, by prior knowledge and over TLS 1.3: package streams
// below internal tells how. If streams are open, new requests are held for 50 ms at most while
// those complete, and migrate with the connection; if they do not complete, nothing more is held
// on their account, and the next moment without a stream is awaited until the idle grace is over.
// Then the connection is drained as told above, like that of a client which does not acknowledge
// the settings, or has a header table although it was asked to have none. A client that answers the
// PING later than the idle grace may have a request refused, and knows that it was not
// processed. Without the tables of header compression a browser's request takes 249 bytes instead of
// 22, and both together 6 % more of the processor's time (h2load -c 32 -m 10, seven header fields, 1 KB,
// with and without DisableMigration by turns, medians of six).
//
// Connections that a handler has hijacked, such as WebSockets, migrate if the handler lets them
// ([Tunnels]) and the successor has one that goes on with them: with what the handler has read
// and not used, and a second socket if they have one. The request is the same in the successor,
// as it was sent, and so is when it began. Over TLS a connection is offered between two records;
// one that is closed in one direction stays. All others live on in the predecessor until they
// end, or until their drain hook ([OnDrain]) has run at the end of its grace, which is a tenth of
// the drain timeout, one second at most, before that.
//
// Drained as well are connections of a listener that the successor does not have, or has for
// TLS now, or no longer, and all of them if the successor is a release that cannot adopt any.
//
// # Limits
//
// A request's header has at most 64 KiB and [Options.ReadHeaderTimeout], a TLS handshake that
// time as well. A client may pause for a minute while it sends a body, and may take nothing of
// a response for a minute, in a drain for a third of the drain timeout. It has at most 250
// requests at a time on one HTTP/2 connection. One that cancels many more requests than it lets
// complete (1,000 at once, then 33 a second), makes the server reset as many, or sends frames
// without content in bulk (512 KiB, then 16 KiB a second) gets a GOAWAY with ENHANCE_YOUR_CALM
// and is disconnected.
//
// A response that begins before the request's body has ended carries "Connection: close", unless
// nobody reads the body and its rest, 256 KiB at most, comes within a second. A request that
// gives its length in two ways is answered 400.
//
// When file descriptors run short, connections wait to be accepted, those that were idle for
// longest are closed, and a request waits for 5 s and is then answered 503: a quarter of the
// limit, 128 at most, is reserved for an upgrade, the control socket and the admin listener, and
// connections leave another one, 1,024 at most, to requests. GODEBUG=http2server=0 turns HTTP/2
// off.
//
// # How it is built
//
// A connection is a stack of layers, each a net.Conn over the one below, which also says
// whether it holds a part of something and what a successor needs to rebuild it: the socket
// (socket.go), TLS (tls.go, handshake.go, tls_migrate.go), the follower of HTTP/1 (http1.go) or HTTP/2 (http2.go,
// http2_rest.go, http2_hold.go), and the
// account, which net/http has (conn.go). Package boundary below internal recognizes by how
// net/http reads when an HTTP/1 connection is at rest; it decides, and http1.go does. Check
// tries out that net/http reads as expected. If a Go release should ever read otherwise, it
// logs that, and connections are closed as above.
//
// Why a connection was closed is one line of reason.go. What ends a drain is drain.go. A session
// of migration begins and ends in session.go; migrate.go offers connections to the successor,
// those that offer.go says may go. What became of the requests is counted in outcomes.go.
//
// # What is not promised
//
// A client that sends a request in the very moment in which its idle connection is closed loses
// it, as with any server that closes; the idle grace is how long it had to avoid that. A
// response that the handler began to write before the drain cannot be given "Connection: close"
// any more; its connection stays open for the idle grace.
package server

// Package forwarded finds out which client a request comes from that has come through another
// proxy: a load balancer or TLS terminator in front.
//
// Such a proxy reports the client in the fields X-Forwarded-For, -Proto and -Host. Any client can
// send them too, so they count only if the peer of the connection is one of those that are
// [Trusted]. Then [Trusted.Handler] puts an [Origin] into the context of the request, for the access
// log, redirections to HTTPS, and the fields that a backend gets.
//
// X-Forwarded-For is a list, to which each proxy appends the address of its peer. What stands on the
// left of it may be the client's invention. The client is therefore the rightmost address that is not
// trusted itself. Where something else than an address is met first, it is the last proxy before
// that, and it is the same after 32 elements. All lines of the field count as one list. An element
// may have a port; zones of IPv6 addresses are ignored, and IPv4 addresses in IPv6 form are IPv4.
// Of X-Forwarded-Proto and -Host the last element of the last line counts, which is what the trusted
// proxy itself has set or let pass. If it is no scheme or no host, it is as if it were missing.
//
// The peer of a unix socket has no address, and whether to trust it depends on who may connect: it is
// trusted if the list of [Trusted] has "unix:". The field Forwarded (RFC 7239) is not read.
package forwarded

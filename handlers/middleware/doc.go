// Package middleware wraps the public handler: [Log] gives each request its id, writes the
// access log and recovers from panics; [Resources] answers OPTIONS * and CONNECT;
// [RedirectHTTPS] redirects requests that came without TLS.
package middleware

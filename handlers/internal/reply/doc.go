// Package reply answers a request that cannot be served, in HTML or JSON as the client accepts.
package reply

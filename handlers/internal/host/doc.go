// Package host reads the Host of a request.
package host

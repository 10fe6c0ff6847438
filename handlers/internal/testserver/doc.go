// Package testserver has servers, requests and captured log lines for the tests of handlers.
package testserver

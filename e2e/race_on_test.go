//go:build race

// Whether the tests themselves run under the race detector; the binary is then built with it too.
package e2e

const race = true

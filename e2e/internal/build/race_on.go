//go:build race

package build

// Race says whether the tests run under the race detector; Baton is then built with it too.
const Race = true

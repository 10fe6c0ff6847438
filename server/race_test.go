//go:build race

package server_test

import "runtime"

// With the race detector one goroutine runs at a time: if two in a bubble of testing/synctest run timers at once, Go's
// runtime crashes (golang.org/issue/78156).
func init() { runtime.GOMAXPROCS(1) }

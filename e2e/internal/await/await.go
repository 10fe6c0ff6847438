// Package await waits for a condition with a deadline, never for a while.
package await

import (
	"testing"
	"time"
)

// Hang is for how long a test waits for what has to come. However busy the machine is, only a hang takes as long.
const Hang = time.Minute

// Until returns when cond holds, and fails the test when that does not come.
func Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !Holds(Hang, cond) {
		t.Fatalf("no %s within %v", what, Hang)
	}
}

// Holds says whether cond came true in time. It is asked every few milliseconds: to ask costs the machine something, of
// which less is left for what is waited for.
func Holds(within time.Duration, cond func() bool) bool {
	begun := time.Now()
	for !cond() {
		waited := time.Since(begun)
		if waited > within {
			return false
		}
		time.Sleep(min(max(2*time.Millisecond, waited/50), 10*time.Millisecond))
	}
	return true
}

// Throughout fails the test if cond is ever false within the time given: for what must not happen.
func Throughout(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	if Holds(within, func() bool { return !cond() }) {
		t.Fatalf("%s: no longer true", what)
	}
}

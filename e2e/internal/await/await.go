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

// Holds says whether cond came true in time. It is asked every few milliseconds.
func Holds(within time.Duration, cond func() bool) bool {
	deadline := time.Now().Add(within)
	for !cond() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(2 * time.Millisecond)
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

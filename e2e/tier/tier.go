// Package tier decides which tests run. There are three tiers:
//
//	go test -short ./...   leaves out what is Slow or Long
//	go test ./...          leaves out what is Long, and what needs something that is missing
//	.ci/run                sets BATON_STRICT=1: nothing is left out, and what is missing is a failure
//
// Whatever is left out is named by the line that go test -v prints for a skipped test.
package tier

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Soak is how many upgrades a soak makes; 0 means as few as show that it works. Tests that try one kind of
// interruption after another try all of them if it is set.
var Soak = flag.Int("soak", 0, "number of `upgrades` that a soak makes")

// packages names the packages of Debian that are not called as the tool.
var packages = map[string]string{"gnutls-cli": "gnutls-bin", "h2load": "nghttp2-client", "java": "openjdk-17-jdk-headless", "node": "nodejs", "promtool": "prometheus", "supervisord": "supervisor"}

// Strict reports whether everything has to run.
func Strict() bool { return os.Getenv("BATON_STRICT") == "1" }

// Needs ends a test that cannot run for want of something: it is skipped, or fails if everything has to run.
// The line says what is missing and how to get it.
func Needs(t testing.TB, what, how string) {
	t.Helper()
	if Strict() {
		t.Fatalf("%s is missing: %s", what, how)
	}
	t.Skipf("%s is missing: %s", what, how)
}

// Tool returns the path of a tool, which the test needs.
func Tool(t testing.TB, tool string) (path string) {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + tool) // which is not in the PATH of ordinary users on Debian
	}
	if err != nil {
		Needs(t, tool, fmt.Sprintf("install it (on Debian: apt install %s)", cmp.Or(packages[tool], tool)))
	}
	return path
}

// Root ends a test that only root can run.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Needs(t, "the privilege of root", "run the tests as root")
	}
}

// Long leaves a test out unless everything has to run.
func Long(t testing.TB, reason string) {
	t.Helper()
	if !Strict() {
		t.Skipf("long: %s; BATON_STRICT=1, as in .ci/run, includes it", reason)
	}
}

// Times returns how often a test does something: in go test -short, in go test, and if everything has to run.
func Times(t testing.TB, what string, short, usual, all int) int {
	t.Helper()
	n := usual
	switch {
	case Strict():
		n = all
	case testing.Short():
		n = short
	}
	if n < all {
		t.Logf("%d of %d %s; BATON_STRICT=1, as in .ci/run, makes all", n, all, what)
	}
	return n
}

// Slow leaves a test out of go test -short.
func Slow(t testing.TB, reason string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("slow: %s; go test without -short includes it", reason)
	}
}

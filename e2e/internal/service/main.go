package service

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/impostor"
)

// Main runs the tests of a package: what each TestMain of e2e calls.
func Main(m *testing.M) {
	impostor.Impersonate()
	// Most tests wait most of the time; those that measure a load do not run in parallel with others.
	flag.Set("test.parallel", "3")
	flag.Parse()
	// A generation is the child of its predecessor, which exits. With this the orphans become children
	// of the test, so that it learns how they exit, and no zombie outlives them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become subreaper:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

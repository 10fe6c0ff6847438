// Package e2e tests the built binary from outside: flags, commands, exit codes, signals and sockets.
//
// It imports nothing of ours. A Baton is a running service as an operator has it; a load is made by
// clients that never retry. A test starts a service, does something to it, and at its end every service
// has to stop in order and to leave no process behind.
//
// This file builds the binaries, and holds what is asked for on the command line:
//
//	go test ./e2e -run Soak -soak=1000   1,000 upgrades under load in each world
//	BATON_STRICT=1 go test ./e2e         a tool that is missing fails the test instead of skipping it
//	go test ./e2e -run Others -others=10 -v
//	                                     what other servers lose in 10 upgrades under the same load
package e2e

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var soak = flag.Int("soak", 0, "number of `upgrades` that TestSoak makes; 0 skips it")

var others = flag.Int("others", 0, "number of `upgrades` that TestOthers makes of each server; 0 skips it")

func TestMain(m *testing.M) {
	impersonate()
	// Most tests wait most of the time; those that measure a load do not run in parallel with others.
	flag.Set("test.parallel", "3")
	flag.Parse()
	// A generation is the child of its predecessor, which exits. With this the orphans become children
	// of the test, so that it learns how they exit, and no zombie outlives them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become subreaper:", err)
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "baton-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	builds.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// builds are the binaries, each built when the first test asks for it: the tests of the client need none.
var builds struct {
	dir string

	mu   sync.Mutex
	done map[string]error
}

// past is the version of a release that knows nothing of connections that move, nor of several predecessors.
const past = "past"

// secretive is the version of a release that does not tell its successor the keys of its session tickets.
const secretive = "secretive"

// built returns the path of the built binary of a version. It is for running commands and for copying;
// a service runs a copy of its own.
func built(t testing.TB, version string) (path string) {
	t.Helper()
	readSources(t)
	builds.mu.Lock()
	defer builds.mu.Unlock()
	path = filepath.Join(builds.dir, version)
	err, tried := builds.done[version]
	if !tried {
		set := "-X main.version=" + version
		if version == past {
			set += " -X example.com/baton/upgrade/internal/link.Protocol=1"
		}
		args := []string{"build", "-o", path, "-ldflags", set}
		if version == secretive {
			args = append(args, "-overlay", withoutTheKeys(t, builds.dir))
		}
		if race {
			args = append(args, "-race")
		}
		out, failed := exec.Command("go", append(args, "example.com/baton")...).CombinedOutput()
		if failed != nil {
			err = fmt.Errorf("go build of version %s: %w\n%s", version, failed, out)
		}
		if builds.done == nil {
			builds.done = make(map[string]error)
		}
		builds.done[version] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// withoutTheKeys writes an overlay for go build, in which main.go does not hand on the keys of session tickets.
func withoutTheKeys(t testing.TB, dir string) (overlay string) {
	t.Helper()
	source, err := filepath.Abs("../main.go")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^func \(s service\) Secret\(\).*$`)
	if found := line.FindAll(text, -1); len(found) != 1 {
		t.Fatalf("%s: got %d lines that hand on the keys, want 1", source, len(found))
	}
	changed := filepath.Join(dir, "without_the_keys.go.txt")
	put(t, line.ReplaceAll(text, nil), changed, 0o600)
	files, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err != nil {
		t.Fatal(err)
	}
	overlay = filepath.Join(dir, "overlay.json")
	put(t, files, overlay, 0o600)
	return overlay
}

// packages are those of Debian that are not called as the tool.
var packages = map[string]string{"h2load": "nghttp2-client", "promtool": "prometheus", "supervisord": "supervisor"}

// need returns the path of a tool, and skips the test where it is missing. Under BATON_STRICT=1 nothing is skipped.
func need(t testing.TB, tool string) (path string) {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + tool) // of which Debian does not tell ordinary users
	}
	if err == nil {
		return path
	}
	hint := fmt.Sprintf("%s is missing: install it (on Debian: apt install %s)", tool, cmp.Or(packages[tool], tool))
	if os.Getenv("BATON_STRICT") == "1" {
		t.Fatal(hint)
	}
	t.Skip(hint)
	return ""
}

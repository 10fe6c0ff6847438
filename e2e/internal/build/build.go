// Package build builds Baton from the sources of the module, in versions that the tests deploy.
//
// The packages of e2e share what they build: a binary is in a directory that is named after a hash of the
// sources, below the user's cache, and is built by the first test that asks for it. A process holds a lock on
// its directory; who builds for other sources removes the directories that nobody holds.
//
// Baton is built with the race detector where the tests are. In .ci/run that is so for the packages in which generations
// meet: upgrade and migrate, streams, http2, tls, proxy, stop, metrics and embed. It is not for those that look at Baton
// from the outside only. What they test is not Go (deploy, systemd), does not run beside anything else (cli), needs the
// memory and speed of the binary that is deployed (limits, log, compare, costs, and trial, where they are judged), or
// repeats, for the sake of other programs as clients, what migrate does (clients). The race detector sees a trial and a
// take-back in the tests of package upgrade. Some of them check more so: limits how much memory clients take, and
// deploy twice as many interruptions.
package build

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Past is the version of a release that knows nothing of connections that move, of several predecessors, nor
// of what the deploy script asks.
const Past = "past"

// Previous is the version of a release that moves connections of plain HTTP/1.1 only.
const Previous = "previous"

// Hasty is the version of a release that commits before it serves, whatever its predecessor says.
const Hasty = "hasty"

// Keyless is the version of another program, below testdata, which does not hand on the keys of its session tickets.
const Keyless = "keyless"

// Embedded is the version of the program below testdata that embeds Baton's packages.
const Embedded = "embedded"

// Counting is the version of a backend below testdata that writes down each request.
const Counting = "counting"

// Dies is the version of a release whose process is killed some time after it is ready.
func Dies(after time.Duration) string { return "dies-after-" + after.String() }

var builds struct {
	sync.Mutex
	done map[string]error // by version
}

// Version returns the path of the built binary of a version. It is for running commands and for copying;
// a service runs a copy of its own.
func Version(t testing.TB, version string) (path string) {
	t.Helper()
	dir := directory(t)
	builds.Lock()
	defer builds.Unlock()
	path = filepath.Join(dir, version)
	err, tried := builds.done[version]
	if !tried {
		err = buildOnce(path, version)
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

// VersionOf returns the version that a file is, byte for byte, of those that this process has asked for.
func VersionOf(t testing.TB, file *os.File) (version string) {
	t.Helper()
	dir := directory(t)
	builds.Lock()
	defer builds.Unlock()
	for version, failed := range builds.done {
		if failed == nil && isCopy(file, filepath.Join(dir, version)) {
			return version
		}
	}
	return ""
}

// isCopy says whether a file has the content of another one. It holds little of them at a time: to have a whole binary
// in memory costs several times as much as to read it.
func isCopy(file *os.File, path string) bool {
	original, err := os.Open(path)
	if err != nil {
		return false
	}
	defer original.Close()
	size, err := file.Seek(0, io.SeekEnd)
	info, err2 := original.Stat()
	if err != nil || err2 != nil || size != info.Size() {
		return false
	}
	const piece = 128 << 10
	got, want := make([]byte, piece), make([]byte, piece)
	for at := int64(0); at < size; at += piece {
		n, err := file.ReadAt(got, at)
		m, err2 := original.ReadAt(want, at)
		if (err != nil && err != io.EOF) || (err2 != nil && err2 != io.EOF) || !bytes.Equal(got[:n], want[:m]) {
			return false
		}
	}
	return true
}

// buildOnce builds a version unless a process has done so before, and keeps others from doing it meanwhile.
func buildOnce(path, version string) error {
	unlock, err := lock(path+".lock", exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	set := "-s -w -X main.version=" + version // nobody debugs them, and to link and copy them takes half the time so
	switch version {
	case Past:
		set += " -X example.com/baton/upgrade/internal/link.Protocol=1 -X example.com/baton/server/deploy.questions=0"
	case Hasty:
		set += " -X example.com/baton/upgrade/internal/link.Protocol=3"
	case Previous:
		set += " -X example.com/baton/upgrade/internal/link.Protocol=2"
	}
	args := []string{"build", "-o", path + ".new", "-ldflags", set}
	if Race && version != Counting {
		args = append(args, "-race")
	}
	if strings.HasPrefix(version, "dies-") {
		overlay, err := faults(path + ".overlay")
		if err != nil {
			return err
		}
		args = append(args, "-overlay", overlay)
	}
	program := "example.com/baton"
	switch version {
	case Keyless:
		program += "/e2e/testdata/keyless"
	case Embedded:
		program += "/e2e/testdata/embed"
	case Counting:
		program += "/e2e/testdata/counting"
	case Faulty:
		overlay, err := overlayFaulty(path)
		if err != nil {
			return fmt.Errorf("version %s: %w", version, err)
		}
		args = append(args, overlay)
	}
	if out, err := exec.Command("go", append(args, program)...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build of version %s: %w\n%s", version, err, out)
	}
	if err := checkUnchanged(); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// faults writes a file for go build -overlay, which adds that of testdata/faults to Baton's main package.
func faults(path string) (overlay string, err error) {
	text, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(sources.root, "faults.go"): filepath.Join(sources.root, "e2e/testdata/faults/faults.go"),
	}})
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, text, 0o600)
}

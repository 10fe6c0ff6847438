package compare

import (
	"debug/buildinfo"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/process"
)

// startTableflip starts the program of testdata/tableflip: SIGHUP, and http.Server.Shutdown in the old process.
func startTableflip(t *testing.T) *other {
	p := otherPlace(t)
	bin, pidFile := filepath.Join(p.dir, "server"), filepath.Join(p.dir, "pid")
	if out, err := exec.Command("go", "build", "-o", bin, "example.com/baton/e2e/testdata/tableflip").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := buildinfo.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	version := ""
	for _, dep := range info.Deps {
		if dep.Path == "github.com/cloudflare/tableflip" {
			version = dep.Version
		}
	}
	serving := runOther(t, p.dir, bin, "-listen", p.address, "-tls", p.secure, "-cert", p.cert, "-key", p.key, "-pid-file", pidFile, "-body", string(otherAnswer.Body))
	generations := []*process.Process{serving}
	t.Cleanup(func() { endOther(t, generations, nil) })
	awaitPID(t, pidFile, 0)
	return &other{
		name:    fmt.Sprintf("tableflip %s, its README's recipe with `http.Server.Shutdown`", version),
		place:   p,
		workers: func() []int { return []int{serving.Pid} },
		answers: func() int { return whoAnswers(p.address) },
		renew: func(t *testing.T) {
			old := serving
			signalOther(t, old, syscall.SIGHUP)
			serving = awaitPID(t, pidFile, old.Pid)
			generations = append(generations, serving)
			if !old.Within(await.Hang) { // the next upgrade is refused while it lives
				t.Fatalf("tableflip: process %d alive 35 s after the upgrade", old.Pid)
			}
		},
	}
}

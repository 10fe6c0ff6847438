package deploy

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// stub returns a release that knows its version and finds every configuration good, and leaves questions to
// a real one; what it does when it shall serve is up to the case.
func stub(real, serve string) []byte {
	return fmt.Appendf(nil, `#!/bin/sh
case $1 in
version) echo "baton bad (commit none, go1)" ;;
check) echo "the configuration is good" ;;
upgrade | status) exec '%s' "$@" ;;
*) %s ;;
esac
`, real, serve)
}

// otherMachine is an architecture that the tests do not run on.
var otherMachine = map[bool]string{true: "amd64", false: "arm64"}[runtime.GOARCH == "arm64"]

// forOther is a release whose header names that one.
func forOther(t testing.TB) []byte {
	t.Helper()
	c := contentOf(t, "v2")
	const machine = 18 // where an ELF header has it
	binary.LittleEndian.PutUint16(c[machine:], uint16(map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[otherMachine]))
	return c
}

func contentOf(t testing.TB, version string) []byte {
	t.Helper()
	c, err := os.ReadFile(build.Version(t, version))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// badRelease is a release that must not come to serve.
type badRelease struct {
	name    string
	content func(t testing.TB) []byte // nil: missing
	mode    os.FileMode
	args    []string
	late    bool   // only an upgrade shows it
	want    string // on stderr
}

// badReleases are those of any service; real is the path of a real binary.
func badReleases(real string) []badRelease {
	text := func(s string) func(testing.TB) []byte {
		return func(testing.TB) []byte { return []byte(s) }
	}
	serves := func(s string) func(testing.TB) []byte {
		return func(testing.TB) []byte { return stub(real, s) }
	}
	cut := func(of func(size int) int) func(testing.TB) []byte {
		return func(t testing.TB) []byte {
			c := contentOf(t, "v2")
			return c[:of(len(c))]
		}
	}
	return []badRelease{
		{name: "missing", want: `does not exist; nothing was replaced`},
		{name: "not executable", content: cut(func(n int) int { return n }), mode: 0o644, want: `is not executable; chmod \+x makes it so`},
		{name: "empty", content: text(""), want: `is empty`},
		{name: "no program", content: text("once upon a time\n"), want: `is invalid: it is not a program\n`},
		{name: "other architecture", content: forOther, want: `is invalid: it is for ` + otherMachine + `, and this machine is ` + runtime.GOARCH + `\n`},
		{name: "big-endian", content: func(testing.TB) []byte { return build.ForOtherMachine() }, want: `is invalid: it is for s390x, and this machine is`},
		{name: "truncated in the middle", content: cut(func(n int) int { return n / 2 }), want: `it is truncated: its tables describe more than its \d+ bytes`},
		{name: "truncated at the end", content: cut(func(n int) int { return n - 100 }), want: `it is truncated`},
		{name: "truncated header", content: cut(func(n int) int { return 100 }), want: `it is truncated`},
		{name: "another program", content: func(t testing.TB) []byte { return contentOf(t, build.Embedded) }, want: `is invalid: it is not baton, which baton.service runs\n`},
		{name: "another script", content: text("#!/bin/sh\nexec sleep 60\n"), want: `is invalid: it is not baton`},
		{name: "version exits 0", content: text("#!/bin/sh\n# baton 2 (commit none)\nexit 0\n"), want: `its version command fails \(exit code 0\): it prints nothing`},
		{name: "version exits 1", content: text("#!/bin/sh\n# baton 2 (commit none)\necho lost >&2\nexit 1\n"), want: `its version command fails \(exit code 1\): lost`},
		{name: "same version", content: func(t testing.TB) []byte { return contentOf(t, "v1") }, want: `v1 \(\w+\) runs already; --force deploys it all the same`},
		{name: "exits 0", content: serves("exit 0"), late: true, want: `reload of baton.service failed:\ndeploy: baton: upgrade failed: .* exited\ndeploy: v1 `},
		{name: "exits 1", content: serves("echo some reason >&2; exit 1"), late: true, want: `baton: upgrade failed: .*exit status 1\ndeploy:   \| some reason\n`},
		{name: "never ready", content: serves("exec sleep 60"), late: true, want: `baton: upgrade failed: .*not ready`},
		{name: "killed", content: serves("kill -9 $$"), late: true, want: `baton: upgrade failed: .*signal: killed`},
		// This one serves, and has to go again.
		{name: "unhealthy", content: func(t testing.TB) []byte { return contentOf(t, "v2") }, late: true, args: []string{"--health", "SICK"},
			want: `v2 \(\w+\) is not healthy: http://127\.0\.0\.1:\d+/sick answers 503\n`},
	}
}

// lateOnes returns those that an upgrade shows, and one that is found out before.
func lateOnes(all []badRelease) []badRelease {
	return slices.DeleteFunc(all, func(bad badRelease) bool { return !bad.late && bad.name != "truncated in the middle" })
}

func TestDeployScriptBadRelease(t *testing.T) {
	tier.Slow(t, "deploys each kind of bad release")
	t.Parallel()
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }))
	t.Cleanup(sick.Close)
	for _, older := range []string{"", "v3"} {
		name := "first deploy"
		if older != "" {
			name = "later deploy"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDeployer(t, service.Args("-upgrade-timeout", "5s"))
			generation := 1
			if older != "" {
				d.Must(d.release(older))
				d.Must(d.release("v1"))
				generation = 3
			}
			before, err := os.Stat(d.Bin)
			if err != nil {
				t.Fatal(err)
			}
			bads := badReleases(build.Version(t, "v1"))
			if older != "" { // which is in danger only once something is replaced
				bads = lateOnes(bads)
			}
			for _, bad := range bads {
				t.Run(bad.name, func(t *testing.T) {
					if older == "" && bad.late && bad.name != "exits 1" {
						tier.Long(t, "is found out as in the later deploy")
					}
					path := filepath.Join(t.TempDir(), "release")
					if bad.content != nil {
						mode := bad.mode
						if mode == 0 {
							mode = 0o755
						}
						files.Put(t, bad.content(t), path, mode)
					}
					args := append([]string{path}, bad.args...)
					for i := range args {
						args[i] = strings.Replace(args[i], "SICK", sick.URL+"/sick", 1)
					}
					got := d.Run(args...)
					if got.Code != 1 || !regexp.MustCompile(bad.want).MatchString(got.Stderr) {
						t.Errorf("got %v\nwant exit code 1, on stderr %s", got, bad.want)
					}
					for line := range strings.Lines(got.Stderr) {
						if !strings.HasPrefix(line, "deploy: ") {
							t.Errorf("stderr: got %q, want it to begin with deploy:", line)
						}
					}
					if bad.late {
						want := regexp.MustCompile(`\ndeploy: v1( \(\w+\))? is in place again, and generation \d+ \(pid \d+\) serves\n$`)
						if !want.MatchString(got.Stderr) {
							t.Errorf("stderr: got\n%swant at its end that v1 serves", got.Stderr)
						}
					} else if got.Stdout != "" || !strings.Contains(got.Stderr, "nothing was replaced") && bad.name != "same version" {
						t.Errorf("got %v\nwant nothing done, and to hear that", got)
					}
					if bad.name == "unhealthy" {
						generation += 2 // there and back
					}
					d.check("v1", older)
					d.checkRuns("v1", generation)
					if after, err := os.Stat(d.Bin); err != nil || !os.SameFile(before, after) {
						t.Error("binary in place: got another file, want the very one that was there")
					}
				})
			}
			d.Must(d.release("v2"))
			d.check("v2", "v1")
			d.checkRuns("v2", generation+1)
		})
	}
}

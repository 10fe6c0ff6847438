package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The deploy script for a program that embeds Baton's packages: it must not run what it does not know.

// README links the program and its unit; the example of package systemd is the same program.
func TestUnitForEmbedders(t *testing.T) {
	t.Parallel()
	program, err := os.ReadFile("../testdata/shop/main.go")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../systemd/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(program), "func main() {\n")
	if body == "" || !strings.HasSuffix(string(example), body) {
		t.Error("the example of package systemd is not testdata/shop/main.go")
	}
}

// traced is a file of the program that writes down each run of it, with its arguments.
const traced = `package main

import (
	"fmt"
	"os"
)

func init() {
	if f, err := os.OpenFile("/run/shop/runs", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666); err == nil {
		fmt.Fprintf(f, "%q\n", os.Args[1:])
		f.Close()
	}
}
`

// shop builds the program of README's unit, with its listener at an address.
func shop(t testing.TB, version, address string) (path string) {
	t.Helper()
	dir := t.TempDir()
	source, err := os.ReadFile("../testdata/shop/main.go")
	if err != nil {
		t.Fatal(err)
	}
	main, trace := filepath.Join(dir, "main.go"), filepath.Join(dir, "trace.go")
	files.Put(t, []byte(strings.Replace(string(source), `Listen(":8080")`, `Listen("`+address+`")`, 1)), main, 0o644)
	files.Put(t, []byte(traced), trace, 0o644)
	path = filepath.Join(dir, "shop-"+version)
	if out, err := exec.Command("go", "build", "-o", path, "-ldflags", "-s -w -X main.version="+version, main, trace).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

func TestSystemdDeployEmbedded(t *testing.T) {
	tier.Long(t, "deploys another program under systemd; TestSystemdDeploy deploys Baton")
	t.Parallel()
	u := machine.Installed(t)
	address := u.Host + ":8080"
	v1, v2 := u.Share(shop(t, "v1", address)), u.Share(shop(t, "v2", address))
	unit, err := os.ReadFile("../testdata/shop/shop.service")
	if err != nil {
		t.Fatal(err)
	}
	u.Put("/etc/systemd/system/shop.service", string(unit), 0o644)
	u.Must("cp", v1, "/usr/local/bin/shop")
	u.Must("systemctl", "daemon-reload")
	u.Must("systemctl", "start", "shop")
	generations := 0
	check := func(what, got, want string, started int) {
		t.Helper()
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: got\n%s\nwant %s\njournal:\n%s", what, got, want, service.Tail(u.Must("journalctl", "-u", "shop", "-o", "cat"), 25))
		}
		generations += started
		if runs := u.Must("cat", "/run/shop/runs"); runs != strings.Repeat("[]\n", generations) {
			t.Errorf("%s: the program was run so, want %d generations only:\n%s", what, generations, runs)
		}
	}
	check("--status", deployIn(u, 0, "--unit", "shop", "--status"), `^v1 serves: generation 1, pid \d+\n$`, 1)
	check("deploy", deployIn(u, 0, "--unit", "shop", v2), `(?m)^reloaded .* generation 2 serves\n`+
		`^healthy .*`+address+` answers 404\n^drained .* generation 1 drained in .*\n^deployed .* v2 serves in place of v1: generation 2, pid \d+\n$`, 1)
	check("--status after it", deployIn(u, 0, "--unit", "shop", "--status"),
		`^v2 serves: generation 2, pid \d+; before it: /usr/local/bin/shop.previous\n$`, 0)
	check("the same again", deployIn(u, 1, "--unit", "shop", v2), `runs already; --force deploys it all the same`, 0)
	check("baton instead", deployIn(u, 1, "--unit", "shop", releaseIn(u, "v1")), `is invalid: it is baton, and shop.service runs another program; --force deploys it all the same\n`, 0)

	bad := filepath.Join(u.Shared, "bad")
	files.Put(t, []byte("#!/bin/sh\necho even worse >&2\nexit 1\n"), bad, 0o755)
	check("bad release", deployIn(u, 1, "--unit", "shop", bad), `(?s)reload of shop.service failed:.* even worse.* is in place again, and generation 2 `, 0)
	check("--rollback", deployIn(u, 0, "--unit", "shop", "--rollback"), `went back .* v1 serves in place of v2: generation 3,`, 1)

	// A reload that does not wait.
	u.DropIn("shop.service", "reload", "[Service]", "ExecReload=", "ExecReload=kill -HUP $MAINPID")
	check("deploy without waiting", deployIn(u, 0, "--unit", "shop", v2), `(?m)^deployed .* v2 serves in place of v1: generation 4,`, 1)

	u.Must("systemctl", "stop", "shop")
	out := deployIn(u, 1, "--unit", "shop", "--status")
	if want := "deploy: shop.service is inactive; in place is /usr/local/bin/shop; before it: /usr/local/bin/shop.previous\n"; out != want {
		t.Errorf("--status of a stopped service: got %s, want %s", out, want)
	}
	deployIn(u, 0, "--unit", "shop", "--start", v1)
	generations = 0 // the directory is another
	check("--start", deployIn(u, 0, "--unit", "shop", "--status"), `^v1 serves: generation 1, `, 1)

	// A unit that does not hear of successors.
	u.DropIn("shop.service", "plain", "[Service]", "Type=simple", "NotifyAccess=none", "FileDescriptorStoreMax=0")
	u.Must("systemctl", "restart", "shop")
	await.Until(t, "warning", func() bool {
		return strings.Contains(u.Must("journalctl", "-u", "shop", "-o", "cat"), "systemd will stop this service at its first upgrade")
	})
}

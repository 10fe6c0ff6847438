package deploy

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/internal/tier"
)

// The shell that the script is written for, and the linter that knows it.
func TestDeployScriptLint(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(tier.Tool(t, "shellcheck"), "--shell=sh", "--enable=all",
		// Braces where nothing needs them, a default for each case, and what would matter with set -e, which is not used.
		"--exclude=SC2249,SC2250,SC2310,SC2311,SC2312", deployScript(t)).CombinedOutput()
	if err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

// Coreutils, sed, flock, and something that speaks HTTP: more than that it must not need.
func TestDeployScriptTools(t *testing.T) {
	t.Parallel()
	tier.Tool(t, "wget")
	cert, key := certificate.Certificate(t)
	d := startDeployer(t, service.Listen("HOST:PORT", "unix:DIR/public.sock", "tls:HOST:PORT", "tls:unix:DIR/secret.sock"),
		service.Args("-tls-cert", cert, "-tls-key", key))
	d.onlyTools("wget")
	got := d.Must(d.release("v2"))
	if strings.Count(got.Stdout, " answers 200") != 5 || !strings.Contains(got.Stdout, "public.sock answers 200") ||
		!strings.Contains(got.Stdout, "secret.sock answers 200") {
		t.Errorf("with curl: got %v\nwant all five listeners asked, those for TLS in TLS", got)
	}
	d.onlyTools("curl", "setpriv", "nsenter")
	got = d.Must(d.release("v1"))
	if !strings.Contains(got.Stdout, d.Address+" answers 200") || strings.Count(got.Stdout, " answers 200") != 3 ||
		strings.Count(got.Stdout, "not asked (that needs curl)") != 2 {
		t.Errorf("with wget: got %v\nwant the three TCP listeners asked, that for TLS in TLS, the others not", got)
	}
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }))
	defer sick.Close()
	if got := d.Run("--health", sick.URL, d.release("v2")); got.Code != 1 || !strings.Contains(got.Stderr, "answers 500\n") {
		t.Errorf("with wget, unhealthy: got %v", got)
	}
	sick.Close()
	if got := d.Run("--health", sick.URL, d.release("v2")); got.Code != 1 || !strings.Contains(got.Stderr, "does not answer: Connection refused\n") {
		t.Errorf("with wget, nobody there: got %v", got)
	}
	d.onlyTools("wget", "curl")
	curl := tier.Tool(t, "curl")
	files.Put(t, []byte("#!/bin/sh\ncase $* in *https://*) echo 'curl: (35) no handshake' >&2; printf 000; exit 35 ;; esac\nexec "+curl+" \"$@\"\n"),
		filepath.Join(d.Path, "curl"), 0o755)
	if got := d.Run(d.release("v2")); got.Code != 1 || !strings.Contains(got.Stderr, " does not answer: curl: (35) no handshake\n") {
		t.Errorf("with TLS that is broken: got %v", got)
	}
	d.onlyTools("curl", "wget")
	if got := d.Run(d.release("v2")); got.Code != 1 || !strings.HasPrefix(got.Stderr, "deploy: neither curl nor wget is here") {
		t.Errorf("with neither: got %v", got)
	}
	d.check("v1", "v2")
	d.checkRuns("v1", 9)
}

// Who reads along may go; what was begun is brought to its end.
func TestDeployScriptWithoutReader(t *testing.T) {
	t.Parallel()
	d := startDeployer(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd, result := d.command(d.release("v2"))
	cmd.Stdout, cmd.Stderr = w, w
	r.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got := result(); got.Code != 0 {
		t.Errorf("got exit code %d, want 0", got.Code)
	}
	d.followServing()
	d.check("v2", "v1")
	d.checkRuns("v2", 2)
}

// unread returns how many bytes of a pipe nobody has read yet.
func unread(f *os.File) int {
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	if err != nil {
		return -1
	}
	return n
}

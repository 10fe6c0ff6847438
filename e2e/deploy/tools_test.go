package deploy

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The shell that the script is written for, and the linter that knows it.
func TestDeployScriptLint(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(tier.Tool(t, "shellcheck"), "--shell=sh", "--enable=all",
		// Braces where nothing needs them, a default for each case, and what would matter with set -e, which is not used.
		"--exclude=SC2249,SC2250,SC2310,SC2311,SC2312", deployScript(t), "../../systemd/deploy-hosts.sh").CombinedOutput()
	if err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

// Coreutils, sed and flock: more than that it must not need.
func TestDeployScriptTools(t *testing.T) {
	tier.Slow(t, "deploys with nothing but the tools that it needs")
	t.Parallel()
	cert, key := certificate.Certificate(t)
	d := startDeployer(t, service.Listen("HOST:PORT", "unix:DIR/public.sock", "tls:HOST:PORT", "tls:unix:DIR/secret.sock"),
		service.Args("-tls-cert", cert, "-tls-key", key))
	d.onlyTools()
	got := d.Must(d.release("v2"))
	if strings.Count(got.Stdout, " answers 200") != 5 || !strings.Contains(got.Stdout, "public.sock answers 200") ||
		!strings.Contains(got.Stdout, "secret.sock answers 200") {
		t.Errorf("got %v\nwant all five listeners asked, those for TLS in TLS", got)
	}
	d.Must("--status")
	unverified := httptest.NewTLSServer(http.NotFoundHandler())
	defer unverified.Close()
	if got := d.Run("--health", unverified.URL, d.release("v1")); got.Code != 1 || !regexp.MustCompile(" does not answer: .*certificate").MatchString(got.Stderr) {
		t.Errorf("with a URL whose certificate cannot be verified: got %v", got)
	}
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }))
	defer sick.Close()
	if got := d.Run("--health", sick.URL, d.release("v1")); got.Code != 1 || !strings.Contains(got.Stderr, "answers 500\n") {
		t.Errorf("unhealthy: got %v", got)
	}
	sick.Close()
	if got := d.Run("--health", sick.URL, d.release("v1")); got.Code != 1 || !strings.Contains(got.Stderr, "connection refused\n") {
		t.Errorf("nobody there: got %v", got)
	}
	d.onlyTools("flock")
	if got := d.Run(d.release("v1")); got.Code != 1 || got.Stderr != "deploy: flock is missing; nothing was replaced\n" {
		t.Errorf("without flock: got %v", got)
	}
	d.Path = os.Getenv("PATH")
	d.check("v2", "v1")
	d.checkRuns("v2", 8)
}

// Who reads along may go; what was begun is brought to its end.
func TestDeployScriptWithoutReader(t *testing.T) {
	tier.Slow(t, "deploys when nobody reads the output")
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

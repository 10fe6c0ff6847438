package deploy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/baton/upgrade"
)

func TestQuote(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "plain", "it's $(exit 1) `x` \"y\" \\ ; & |", "two\nlines\n", "tab\tand é", "-n"} {
		out, err := exec.Command("sh", "-c", "x="+quote(text)+"; printf %s. \"$x\"").Output()
		if err != nil || string(out) != text+"." {
			t.Errorf("%q: a shell reads %q, %v", text, out, err)
		}
	}
}

func TestAsks(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{"status -shell -unit x": true, "check -binary x": true, "check -health / -unit x": true, "upgrade -serves x": true,
		"status": false, "status -json": false, "check -listen :80": false, "upgrade -timeout 1s": false, "-binary x": false, "": false} {
		if got := Asks(strings.Fields(line)); got != want {
			t.Errorf("%q: got %v, want %v", line, got, want)
		}
	}
}

// answered is how a shell understands an answer.
func answered(t *testing.T, code int, args ...string) map[string]string {
	t.Helper()
	var out bytes.Buffer
	if got := Answer(&out, args); got != code {
		t.Fatalf("%q: got exit code %d, want %d:\n%s", args, got, code, out.String())
	}
	keys := make(map[string]string)
	for _, key := range []string{"answered", "problem", "alive", "active", "pid", "target", "embedded", "generation", "name", "report", "silent", "again",
		"serves", "drained", "answers", "lost", "crashes", "before", "good", "stood", "undone", "same", "version", "waited"} {
		value, err := exec.Command("sh", "-c", out.String()+"printf %s. \"${"+key+"-unset}\"").CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s\n%s", args, err, value, out.String())
		}
		keys[key] = strings.TrimSuffix(string(value), ".")
	}
	return keys
}

func checkAnswer(t *testing.T, got, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: got %q, want %q", key, got[key], value)
		}
	}
}

// A fakeService is this process, in the place of a service: systemctl is a stand-in that
// reports it, and a control socket here answers.
type fakeService struct {
	dir  string
	file string // that runs

	mu     sync.Mutex
	status upgrade.Status
	asked  []string
}

// requests returns how often a command came over the control socket.
func (f *fakeService) requests(command string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, request := range f.asked {
		if strings.Contains(request, `"`+command+`"`) {
			n++
		}
	}
	return n
}

func (f *fakeService) set(change func(*upgrade.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

// systemd sets what the stand-in says next; reload is what it does if asked to reload.
func (f *fakeService) systemd(t *testing.T, active string, pid int, reload string) {
	t.Helper()
	write(t, filepath.Join(f.dir, "systemctl"), fmt.Sprintf(`#!/bin/sh
case $1 in
show) printf '%%s\n' LoadState=loaded ActiveState=%s SubState=x MainPID=%d CanReload=yes 'ExecStart={ path=%s ; argv[]=%s ; ignore_errors=no }' ;;
reload | restart) echo "$1" >>%s/calls; %s ;;
esac
`, active, pid, f.file, f.file, f.dir, reload))
}

func newFakeService(t *testing.T) *fakeService {
	t.Helper()
	f := &fakeService{dir: resolved(t, t.TempDir())}
	f.file = resolved(t, "/proc/self/exe")
	f.status = upgrade.Status{Generation: 3, PID: os.Getpid(), Version: "it's $(v1)", State: "serving", Listen: []string{}}
	write(t, filepath.Join(f.dir, "journalctl"), "#!/bin/sh\nexit 1\n")
	t.Setenv("PATH", f.dir+":"+os.Getenv("PATH"))
	socket := filepath.Join(f.dir, "control.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			request, _ := bufio.NewReader(nc).ReadString('\n')
			f.mu.Lock()
			f.asked = append(f.asked, request)
			json.NewEncoder(nc).Encode(map[string]any{"final": true, "status": f.status})
			f.mu.Unlock()
			nc.Close()
		}
	})
	t.Cleanup(func() {
		ln.Close()
		serving.Wait()
	})
	f.systemd(t, "active", os.Getpid(), "true")
	return f
}

func TestAnswerStatus(t *testing.T) {
	checkAnswer(t, answered(t, 0, "status", "-shell"), map[string]string{"answered": "2", "problem": "unset"})
	f := newFakeService(t)
	pid := fmt.Sprint(os.Getpid())
	checkAnswer(t, answered(t, 0, "status", "-shell", "-unit", "x.service"), map[string]string{
		"alive": "yes", "active": "active", "pid": pid, "target": f.file, "embedded": "yes", "generation": "3", "name": "it's $(v1)",
		"report": "it's $(v1) serves: generation 3, pid " + pid, "silent": "unset", "problem": "unset"})
	f.set(func(s *upgrade.Status) { s.PID = 1 })
	checkAnswer(t, answered(t, 0, "status", "-shell", "-unit", "x.service"), map[string]string{
		"silent": "pid 1 answers on the control socket, but systemd has " + pid + " for the main process of x.service"})
	f.systemd(t, "inactive", 0, "true")
	checkAnswer(t, answered(t, 0, "status", "-shell", "-unit", "x.service"), map[string]string{"alive": "", "active": "inactive", "pid": "0", "name": f.file})
	checkAnswer(t, answered(t, 1, "status", "-shell", "-unit", "x.service", "-now"), map[string]string{
		"problem": "x.service is inactive; in place is " + f.file})
	if code := Answer(&bytes.Buffer{}, []string{"status", "-shell", "-no-such"}); code != 2 {
		t.Errorf("unknown flag: got exit code %d, want 2", code)
	}
}

func TestAnswerBinary(t *testing.T) {
	good := script(t, `case $1 in version) echo "baton v2 (commit none, go1)" ;; esac`)
	checkAnswer(t, answered(t, 0, "check", "-binary", good), map[string]string{"name": "v2 (none)", "version": "v2"})
	checkAnswer(t, answered(t, 1, "check", "-binary", script(t, "exit 0")), map[string]string{"problem": "it is not baton"})
	f := newFakeService(t)
	args := []string{"-unit", "x.service", "-target", f.file}
	baton := map[string]string{"problem": "it is baton, and x.service runs another program; --force deploys it all the same"}
	checkAnswer(t, answered(t, 1, append([]string{"check", "-binary", good}, args...)...), baton)
	checkAnswer(t, answered(t, 0, append([]string{"check", "-binary", good, "-force"}, args...)...), map[string]string{"name": "the new binary", "same": ""})
	checkAnswer(t, answered(t, 0, append([]string{"check", "-binary", f.file}, args...)...), map[string]string{"same": "yes"})
}

func TestAnswerServes(t *testing.T) {
	f := newFakeService(t)
	pid := fmt.Sprint(os.Getpid())
	question := []string{"upgrade", "-serves", f.file, "-unit", "x.service", "-name", "v1", "-version", "it's $(v1)"}
	f.systemd(t, "active", os.Getpid(), "echo 'generation 3 (pid 1, version x) serves after 1 ms; generation 2 drained in 1 ms'")
	checkAnswer(t, answered(t, 0, append(question, "-was", "1")...), map[string]string{
		"pid": pid, "generation": "3", "serves": "it's $(v1)", "lost": "yes"})
	checkAnswer(t, answered(t, 1, append(question, "-was", pid)...), map[string]string{"problem": "x.service did not upgrade: pid " + pid + " serves still"})
	checkAnswer(t, answered(t, 1, "upgrade", "-serves", f.file, "-unit", "x.service", "-version", "v9"), map[string]string{"problem": "it's $(v1) serves, not v9"})
	f.systemd(t, "active", os.Getpid(), "printf 'noise\\nbaton: upgrade failed: x\\n  | why\\ngeneration 3 (pid 1, version x) goes on serving\\n'; exit 1")
	checkAnswer(t, answered(t, 1, append(question, "-was", pid)...), map[string]string{"lost": "", "problem": "reload of x.service failed:\nbaton: upgrade failed: x\n  | why"})
	f.systemd(t, "failed", 0, "echo no way; exit 1")
	checkAnswer(t, answered(t, 1, append(question, "-start")...), map[string]string{"problem": "start of x.service failed:\nno way"})
	f.systemd(t, "failed", 0, "true")
	checkAnswer(t, answered(t, 1, append(question, "-start")...), map[string]string{"problem": "v1 does not serve: x.service is failed"})
}

func TestAnswerBack(t *testing.T) {
	f := newFakeService(t)
	calls := func() string {
		content, _ := os.ReadFile(filepath.Join(f.dir, "calls"))
		os.Remove(filepath.Join(f.dir, "calls"))
		return strings.Join(strings.Fields(string(content)), " ")
	}
	checkAnswer(t, answered(t, 0, "upgrade", "-back", f.file, "-unit", "x.service"), map[string]string{"again": ""})
	if got := calls(); got != "" {
		t.Errorf("the serving generation was sent %s", got)
	}
	f.systemd(t, "failed", 0, "true")
	answered(t, 1, "upgrade", "-back", f.file, "-unit", "x.service")
	if got := calls(); got != "restart restart restart" {
		t.Errorf("a service that went down: got %q, want three restarts", got)
	}
	answered(t, 1, "upgrade", "-back", f.file, "-unit", "x.service", "-start")
	if got := calls(); got != "" {
		t.Errorf("a service that was down before: got %q, want nothing", got)
	}
	f.systemd(t, "active", os.Getpid(), "true")
	other := write(t, filepath.Join(f.dir, "other"), "")
	got := answered(t, 1, "upgrade", "-back", other, "-unit", "x.service")
	if want := fmt.Sprintf("generation 3 (pid %d, version it's $(v1)) serves, which is not the binary in place", os.Getpid()); got["problem"] != want {
		t.Errorf("got %q, want %q", got["problem"], want)
	}
	if got := f.requests("upgrade-with"); got != 3 {
		t.Errorf("got %d requests for an upgrade, want three", got)
	}
}

func TestAnswerDrained(t *testing.T) {
	f := newFakeService(t)
	question := []string{"upgrade", "-drained", f.file, "-unit", "x.service", "-generation", "3"}
	checkAnswer(t, answered(t, 0, question...), map[string]string{"drained": "nothing drains"})
	f.set(func(s *upgrade.Status) {
		s.Upgrades = []upgrade.Upgrade{{From: 2, To: 3, Result: upgrade.Succeeded, Drained: &upgrade.Drained{Requests: 7}}}
	})
	if got := answered(t, 0, question...)["drained"]; !strings.HasPrefix(got, "generation 2 drained in 0 ms: 7 requests finished") {
		t.Errorf("got %q", got)
	}
	f.set(func(s *upgrade.Status) { s.Generation = 1 })
	checkAnswer(t, answered(t, 1, question...), map[string]string{"problem": "it has died, and was started again as generation 1"})
	f.systemd(t, "activating", 0, "true")
	checkAnswer(t, answered(t, 1, question...), map[string]string{"problem": "x.service is activating (x), and has no main process"})
}

func TestAnswerHealth(t *testing.T) {
	f := newFakeService(t)
	checkAnswer(t, answered(t, 0, "check", "-health", "/", "-unit", "x.service"), map[string]string{"answers": "no address is known for the health check; --health names one"})
	f.systemd(t, "failed", 0, "true")
	checkAnswer(t, answered(t, 1, "check", "-health", "/", "-unit", "x.service"), map[string]string{"problem": "x.service is failed"})
}

func TestListeningSocket(t *testing.T) {
	t.Parallel()
	own := map[string]bool{"socket:[7]": true}
	for line, want := range map[string]string{
		"0000000000000000: 00000002 00000000 00010000 0001 01 7 /run/a b.sock": "/run/a b.sock",
		"0000000000000000: 00000002 00000000 00010000 0001 01     7 rel.sock":  "rel.sock",
		"0000000000000000: 00000002 00000000 00010000 0001 01 8 /run/x.sock":   "", // another's
		"0000000000000000: 00000002 00000000 00000000 0001 03 7 /run/x.sock":   "", // a connection
		"0000000000000000: 00000002 00000000 00010000 0001 01 7 @abstract":     "",
		"0000000000000000: 00000002 00000000 00010000 0001 01 7":               "",
		"Num       RefCount Protocol Flags    Type St Inode Path":              "",
	} {
		if got, ok := listeningSocket(line, own); got != want && ok || ok != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", line, got, ok, want)
		}
	}
}

func TestAbout(t *testing.T) {
	t.Parallel()
	got := about("noise\nbaton: up\x1b[31mgrade failed\n  | last\twords\x7f\ngeneration 2 (pid 1) serves\n" + strings.Repeat("baton: more\n", 100))
	if want := "baton: up[31mgrade failed\n  | last\twords\ngeneration 2 (pid 1) serves\n" + strings.TrimSpace(strings.Repeat("baton: more\n", 27)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

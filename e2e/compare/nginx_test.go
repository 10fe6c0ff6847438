package compare

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/tier"
)

const nginxConfig = `
worker_processes auto;
pid DIR/pid;
events {}
http {
	access_log off;
	default_type application/octet-stream;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	server {
		listen ADDRESS;
		listen SECURE ssl http2;
		ssl_certificate CERT;
		ssl_certificate_key KEY;
		add_header X-Pid $pid;
		location / {
			return 200 "BODY";
		}
	}
}
`

// nginx is a running nginx.
type nginx struct {
	other
	pidFile string
	masters []*process.Process // the last is the one of today
}

func (n *nginx) master() *process.Process { return n.masters[len(n.masters)-1] }

// workersOfToday leaves out those that only finish what they have begun, which their title says.
func (n *nginx) workersOfToday() (pids []int) {
	for _, pid := range process.Children(n.master().Pid) {
		title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !bytes.Contains(title, []byte("shutting down")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func startNginx(t *testing.T, recipe string) *nginx {
	path := tier.Tool(t, "nginx")
	p := otherPlace(t)
	dir, config := p.dir, filepath.Join(p.dir, "nginx.conf")
	files.Put(t, []byte(p.fill(nginxConfig)), config, 0o644)
	n := &nginx{pidFile: filepath.Join(dir, "pid")}
	// Not in the foreground: an nginx whose first parent is still there takes no SIGUSR2. As a daemon it becomes
	// a child of the test, which adopts orphans.
	starter := runOther(t, dir, path, "-p", dir, "-e", filepath.Join(dir, "log"), "-c", config)
	if !starter.Within(await.Hang) || starter.Status.ExitStatus() != 0 {
		t.Fatalf("nginx: got %s, want exit status 0 when it runs in the background", starter.Outcome())
	}
	n.masters = []*process.Process{awaitPID(t, n.pidFile, 0)}
	t.Cleanup(func() { endOther(t, n.masters, process.Children(n.master().Pid)) })
	n.other = other{
		name:    fmt.Sprintf("nginx %s, %s", versionAfter(t, path, "nginx/"), recipe),
		place:   p,
		workers: n.workersOfToday,
		answers: func() int { return whoAnswers(p.address) },
	}
	await.Until(t, "answer of nginx", func() bool { return n.answers() != 0 })
	return n
}

func startNginxToReload(t *testing.T) *other {
	n := startNginx(t, "reload (HUP)")
	n.renew = func(t *testing.T) { signalOther(t, n.master(), syscall.SIGHUP) }
	return &n.other
}

func startNginxToUpgrade(t *testing.T) *other {
	n := startNginx(t, "binary upgrade (USR2, WINCH, QUIT)")
	n.endless = "HTTP/2 over TLS" // old workers wait for clients who wait for them to close
	n.renew = func(t *testing.T) {
		old := n.master()
		signalOther(t, old, syscall.SIGUSR2)
		n.masters = append(n.masters, awaitPID(t, n.pidFile, old.Pid))
		await.Until(t, "workers of the new master", func() bool { return len(n.workers()) > 0 })
		signalOther(t, old, syscall.SIGWINCH)
		await.Until(t, "end of the old master's workers", func() bool {
			return slices.Equal(process.Children(old.Pid), []int{n.master().Pid})
		})
		signalOther(t, old, syscall.SIGQUIT)
		if !old.Within(await.Hang) {
			t.Fatalf("nginx: old master %d alive 20 s after SIGQUIT", old.Pid)
		}
	}
	return &n.other
}

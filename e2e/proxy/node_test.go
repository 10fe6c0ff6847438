package proxy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// TestNodeWithPM2 reloads a Node application that pm2 runs in cluster mode. No request fails behind Baton but those that
// nobody can save: now and then the cluster accepts a connection for a worker that leaves, and then neither serves nor
// closes it, at most one in a reload. Those that fail behind nginx, and with nothing in front, are reported: they are what users of pm2 see today.
func TestNodeWithPM2(t *testing.T) {
	tier.Long(t, "pm2 takes seconds for each reload, and a minute to begin and end")
	tier.Tool(t, "node")
	nginx := tier.Tool(t, "nginx")
	pm2, err := exec.LookPath("pm2")
	if err != nil {
		tier.Needs(t, "pm2", "run npm install --prefix DIR pm2@6.0.8, and put DIR/node_modules/.bin into PATH")
	}
	a := startPM2(t, pm2)
	b := service.Start(t, service.Args("-proxy", "/=http://"+a.address, "-proxy-wait", "1m"))
	fronts := []struct{ name, address string }{
		{"Baton", b.Address}, {"nginx", startNginx(t, nginx, a.address)}, {"nothing in front", a.address},
	}
	var tallies []*load.Tally
	var stops []func() *load.Tally
	for _, front := range fronts {
		l := load.Load{Network: "tcp", Address: front.address, Lenient: true,
			Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, bytes.Repeat([]byte("x"), 1000))},
			Clients:   [load.Habits]int{load.BackToBack: 2, load.Pausing: 6, load.PerRequest: 2}}.Paced()
		counts, stop := load.Start(t, l)
		await.Until(t, "answers behind "+front.name, func() bool { return counts.Requests() > 20 })
		tallies, stops = append(tallies, counts), append(stops, stop)
	}
	const n = 10 // reloads
	for range n {
		a.run("reload", "app")
	}
	for _, stop := range stops {
		stop()
	}
	for i, front := range fronts {
		t.Logf("%s: %d requests, %d failed in %d reloads", front.name, tallies[i].Requests(), tallies[i].Failures(), n)
	}
	behind := tallies[0]
	unserved := int64(strings.Count(behind.String(), "i/o timeout"))
	if failed := behind.Failures(); failed != unserved || failed > n {
		t.Errorf("%d requests failed, %d of them unserved for a minute; want none but these, and one in each reload at most", failed, unserved)
	}
	load.CheckAnswered(t, behind)
	if t.Failed() {
		t.Log(behind)
	}
}

// application is one that pm2 runs.
type application struct {
	t         *testing.T
	pm2, home string
	address   string
}

func startPM2(t *testing.T, pm2 string) *application {
	t.Helper()
	a := &application{t: t, pm2: pm2, home: t.TempDir()}
	host := service.Loopback()
	port := service.FreePort(t, host)
	a.address = host + ":" + port
	t.Cleanup(func() { a.try("kill") })
	config := filepath.Join(build.Root(t), "e2e/testdata/node/ecosystem.config.js")
	if out, err := a.try("start", config, "HOST="+host, "PORT="+port); err != nil {
		t.Fatalf("pm2 start: %v\n%s", err, out)
	}
	await.Until(t, "an application that answers", func() bool {
		resp, err := http1.Fetch("tcp", a.address, "GET", "/")
		return err == nil && resp.Status == 200
	})
	return a
}

func (a *application) run(args ...string) {
	a.t.Helper()
	if out, err := a.try(args...); err != nil {
		a.t.Fatalf("pm2 %v: %v\n%s", args, err, out)
	}
}

// try runs a command of pm2; the variables among its arguments are the application's.
func (a *application) try(args ...string) ([]byte, error) {
	cmd := exec.Command(a.pm2)
	cmd.Env = append(os.Environ(), "PM2_HOME="+a.home, "PM2_DISCRETE_MODE=true")
	for _, arg := range args {
		if bytes.ContainsRune([]byte(arg), '=') {
			cmd.Env = append(cmd.Env, arg)
			continue
		}
		cmd.Args = append(cmd.Args, arg)
	}
	cmd.WaitDelay = time.Second // the daemon may have its stdout
	return cmd.CombinedOutput()
}

const nginxConfig = `
daemon off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	keepalive_requests 1000000000;
	upstream app {
		server %[3]s;
		keepalive 16;
	}
	server {
		listen %[2]s;
		location / {
			proxy_pass http://app;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
}
`

// startNginx starts an nginx in front of a backend, and returns its address.
func startNginx(t *testing.T, nginx, backend string) (address string) {
	t.Helper()
	dir, host := t.TempDir(), service.Loopback()
	address = host + ":" + service.FreePort(t, host)
	files.Put(t, fmt.Appendf(nil, nginxConfig, dir, address, backend), dir+"/nginx.conf", 0o644)
	var stderr bytes.Buffer
	cmd := exec.Command(nginx, "-p", dir, "-e", "stderr", "-c", dir+"/nginx.conf")
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if t.Failed() {
			t.Logf("nginx: %.2000s", stderr.String())
		}
	})
	await.Until(t, "nginx", func() bool {
		resp, err := http1.Fetch("tcp", address, "GET", "/")
		return err == nil && resp.Status == 200
	})
	return address
}

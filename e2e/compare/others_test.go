package compare

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/internal/tier"
)

// What the reload and upgrade recipes of other servers lose and close, under the same load as Baton.
//
// Each server answers every request with the same bytes, and logs none of them. The limits that would close a
// connection for another reason, such as its silence or the number of its requests, are out of the way; all else
// is as it comes. The client is the one of all our tests: it never retries, and while it pauses it watches for
// the end of its connection, as a browser does.
//
// The numbers are about what is lost and closed. They say nothing about speed: a machine that is busy with
// something else answers less.

// other is a running server, and how its manual says that it is reloaded or upgraded.
type other struct {
	name    string
	address string
	// workers returns the processes that serve now, without those that only finish what they have begun.
	workers func() []int
	// answers returns the process that answers a new connection, 0 if that failed.
	answers func() int
	// renew replaces the workers, and returns when the recipe is at its end.
	renew func(t *testing.T)
}

// outcome is what came of one server.
type outcome struct {
	name                            string
	requests, failed, began, closed int64
}

// otherCrowd is the load of the comparison. All but the ones that dial for each request keep their connections.
var otherCrowd = [load.Habits]int{load.BackToBack: 8, load.Pausing: 64, load.PerRequest: 4, load.SilentAfter: 64}

// otherAnswer is made of digits and commas, so that it needs no quoting anywhere.
var otherAnswer = exchange.New("GET", "/100.bin", nil, 200, exchange.Pattern(100))

func TestOthers(t *testing.T) {
	upgrades := *others
	if upgrades == 0 && os.Getenv("BATON_STRICT") == "1" {
		upgrades = 1 // enough to see that it works
	} else if upgrades == 0 {
		t.Skip("a comparison with nginx, HAProxy and tableflip: go test ./e2e/compare -others=10 -v makes 10 upgrades of each under load")
	}
	var results []outcome
	for _, c := range []struct {
		name  string
		start func(*testing.T) *other
	}{
		{"tableflip", startTableflip},
		{"nginx upgrade", startNginxToUpgrade},
		{"nginx reload", startNginxToReload},
		{"haproxy", startHAProxy},
		{"haproxy idle-close-on-response", startHAProxyPatient},
		{"baton", startBatonAsOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := compare(t, c.start(t), upgrades)
			results = append(results, r)
			if c.name == "baton" && r.failed+r.closed != 0 {
				t.Errorf("baton: got %d requests failed, %d connections closed, want none", r.failed, r.closed)
			}
		})
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| server, upgrades: %d | requests | failed | keep-alive connections | closed by the server |\n|---|---|---|---|---|\n", upgrades)
	for _, r := range results {
		fmt.Fprintf(&table, "| %s | %d | %d | %d | %d |\n", r.name, r.requests, r.failed, r.began, r.closed)
	}
	t.Logf("the same load on each, upgrades half a second apart:\n%s", &table)
}

// compare upgrades a server under load, and sees each time that other processes serve then.
func compare(t *testing.T, o *other, upgrades int) outcome {
	kept := func(counts *load.Tally) (n int64) {
		for _, h := range []load.Habit{load.BackToBack, load.Pausing, load.SilentAfter} {
			n += counts.Connections[h].Load()
		}
		return n
	}
	counts, stop := load.Start(t, load.Load{Network: "tcp", Address: o.address, Exchanges: []exchange.Exchange{otherAnswer}, Clients: otherCrowd})
	await.Until(t, 20*time.Second, "requests of every client", func() bool {
		return counts.Answered[load.Pausing].Load() > 64 && counts.Answered[load.SilentAfter].Load() >= int64(otherCrowd[load.SilentAfter])
	})
	r := outcome{name: o.name, began: kept(counts)}
	if want := int64(otherCrowd[load.BackToBack] + otherCrowd[load.Pausing] + otherCrowd[load.SilentAfter]); r.began != want || counts.Failures() != 0 {
		t.Fatalf("before the first upgrade: got %d connections of clients that keep theirs, want %d\n%v", r.began, want, counts)
	}
	for i := range upgrades {
		time.Sleep(500 * time.Millisecond) // the distance between upgrades belongs to the case
		before := o.workers()
		if len(before) == 0 {
			t.Fatalf("before upgrade %d: no worker", i+1)
		}
		o.renew(t)
		var after []int
		await.Until(t, 20*time.Second, fmt.Sprintf("answer from a new process after upgrade %d of workers %v", i+1, before), func() bool {
			after = o.workers()
			old := slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before, pid) })
			return !old && slices.Contains(after, o.answers())
		})
	}
	time.Sleep(500 * time.Millisecond) // as after each of the others
	stop()
	r.requests, r.failed, r.closed = counts.Requests(), counts.Failures(), kept(counts)-r.began
	t.Logf("%s: %v", o.name, counts)
	if r.requests == 0 {
		t.Errorf("%s: no request was answered", o.name)
	}
	return r
}

// whoAnswers asks for the process that answers at an address.
func whoAnswers(address string) int {
	resp, err := http1.Fetch("tcp", address, "GET", "/100.bin")
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(resp.Header("X-Pid"))
	return pid
}

// otherPlace returns a folder and a free address for a server. Its log, if anything fails, is shown at the end.
func otherPlace(t *testing.T) (dir, address string) {
	t.Helper()
	// Not t.TempDir: a unix socket's path has room for 107 bytes.
	dir, err := os.MkdirTemp("", "others-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if log, _ := os.ReadFile(filepath.Join(dir, "log")); t.Failed() {
			t.Logf("log of the server (the last lines):\n%s", service.Tail(string(log), 40))
		}
		os.RemoveAll(dir)
	})
	host := service.Loopback()
	return dir, net.JoinHostPort(host, service.FreePort(t, host))
}

// runOther starts a program whose output goes to the log in its folder.
func runOther(t *testing.T, dir string, argv ...string) *process.Process {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := mustFollow(t, cmd.Process.Pid)
	cmd.Process.Release()
	return p
}

func mustFollow(t *testing.T, pid int) *process.Process {
	t.Helper()
	p, err := process.Follow(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// endOther ends a server: the processes that lead it, of which the last has to be there, and their workers.
func endOther(t *testing.T, leaders []*process.Process, workers []int) {
	t.Helper()
	all := slices.Clone(leaders)
	for _, pid := range workers {
		if p, err := process.Follow(pid); err == nil {
			all = append(all, p)
		}
	}
	for i, p := range leaders {
		if p.Alive() || i == len(leaders)-1 {
			signalOther(t, p, syscall.SIGTERM)
		}
	}
	for _, p := range all {
		if !p.Within(10 * time.Second) {
			t.Errorf("at the end: process %d alive 10 s after SIGTERM", p.Pid)
			signalOther(t, p, syscall.SIGKILL)
		}
	}
}

func signalOther(t *testing.T, p *process.Process, sig syscall.Signal) {
	t.Helper()
	if !p.Alive() {
		t.Errorf("signal %v to %d: it has exited before", sig, p.Pid)
	} else if err := syscall.Kill(p.Pid, sig); err != nil {
		t.Errorf("signal %v to %d: %v", sig, p.Pid, err)
	}
}

// awaitPID waits until a PID file names another process than the one given, and returns it.
func awaitPID(t *testing.T, path string, old int) *process.Process {
	t.Helper()
	pid := 0
	await.Until(t, 20*time.Second, "new process in "+path, func() bool {
		content, _ := os.ReadFile(path)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(content)))
		return pid != 0 && pid != old
	})
	return mustFollow(t, pid)
}

// versionAfter returns the word that follows another in what a program says of its version.
func versionAfter(t *testing.T, path, after string) string {
	t.Helper()
	said, err := exec.Command(path, "-v").CombinedOutput()
	_, rest, found := strings.Cut(string(said), after)
	if err != nil || !found {
		t.Fatalf("%s -v: got %q (%v), want %q in it", path, said, err, after)
	}
	version, _, _ := strings.Cut(strings.Fields(rest)[0], "-") // without the packager's part
	return version
}

// startTableflip starts the program of testdata/tableflip: SIGHUP, and http.Server.Shutdown in the old process.
func startTableflip(t *testing.T) *other {
	dir, address := otherPlace(t)
	bin, pidFile := filepath.Join(dir, "server"), filepath.Join(dir, "pid")
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
	serving := runOther(t, dir, bin, "-listen", address, "-pid-file", pidFile, "-body", string(otherAnswer.Body))
	generations := []*process.Process{serving}
	t.Cleanup(func() { endOther(t, generations, nil) })
	awaitPID(t, pidFile, 0)
	return &other{
		name:    fmt.Sprintf("tableflip %s, its README's recipe with `http.Server.Shutdown`", version),
		address: address,
		workers: func() []int { return []int{serving.Pid} },
		answers: func() int { return whoAnswers(address) },
		renew: func(t *testing.T) {
			old := serving
			signalOther(t, old, syscall.SIGHUP)
			serving = awaitPID(t, pidFile, old.Pid)
			generations = append(generations, serving)
			if !old.Within(35 * time.Second) { // the next upgrade is refused while it lives
				t.Fatalf("tableflip: process %d alive 35 s after the upgrade", old.Pid)
			}
		},
	}
}

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

func startNginx(t *testing.T, recipe string) *nginx {
	path := tier.Need(t, "nginx")
	dir, address := otherPlace(t)
	config := filepath.Join(dir, "nginx.conf")
	files.Put(t, []byte(strings.NewReplacer("DIR", dir, "ADDRESS", address, "BODY", string(otherAnswer.Body)).Replace(nginxConfig)), config, 0o644)
	n := &nginx{pidFile: filepath.Join(dir, "pid")}
	// Not in the foreground: an nginx whose first parent is still there takes no SIGUSR2. As a daemon it becomes
	// a child of the test, which adopts orphans.
	starter := runOther(t, dir, path, "-p", dir, "-e", filepath.Join(dir, "log"), "-c", config)
	if !starter.Within(10*time.Second) || starter.Status.ExitStatus() != 0 {
		t.Fatalf("nginx: got %s, want exit status 0 when it runs in the background", starter.Outcome())
	}
	n.masters = []*process.Process{awaitPID(t, n.pidFile, 0)}
	t.Cleanup(func() { endOther(t, n.masters, process.Children(n.master().Pid)) })
	n.other = other{
		name:    fmt.Sprintf("nginx %s, %s", versionAfter(t, path, "nginx/"), recipe),
		address: address,
		workers: func() []int { return process.Children(n.master().Pid) },
		answers: func() int { return whoAnswers(address) },
	}
	await.Until(t, 10*time.Second, "answer of nginx", func() bool { return n.answers() != 0 })
	return n
}

func startNginxToReload(t *testing.T) *other {
	n := startNginx(t, "reload (HUP)")
	n.renew = func(t *testing.T) { signalOther(t, n.master(), syscall.SIGHUP) }
	return &n.other
}

func startNginxToUpgrade(t *testing.T) *other {
	n := startNginx(t, "binary upgrade (USR2, WINCH, QUIT)")
	n.renew = func(t *testing.T) {
		old := n.master()
		signalOther(t, old, syscall.SIGUSR2)
		n.masters = append(n.masters, awaitPID(t, n.pidFile, old.Pid))
		await.Until(t, 20*time.Second, "workers of the new master", func() bool { return len(n.workers()) > 0 })
		signalOther(t, old, syscall.SIGWINCH)
		await.Until(t, 20*time.Second, "end of the old master's workers", func() bool {
			return slices.Equal(process.Children(old.Pid), []int{n.master().Pid})
		})
		signalOther(t, old, syscall.SIGQUIT)
		if !old.Within(20 * time.Second) {
			t.Fatalf("nginx: old master %d alive 20 s after SIGQUIT", old.Pid)
		}
	}
	return &n.other
}

const haproxyConfig = `
defaults
	mode http
	timeout connect 5s
	timeout client 1h
	timeout server 1h
	OPTION

frontend service
	bind ADDRESS
	http-request return status 200 content-type application/octet-stream string "BODY" hdr X-Pid %pid
`

func startHAProxy(t *testing.T) *other {
	return startHAProxyWith(t, "master-worker reload (USR2)", "")
}

func startHAProxyPatient(t *testing.T) *other {
	return startHAProxyWith(t, "reload with `option idle-close-on-response`", "option idle-close-on-response")
}

// startHAProxyWith starts HAProxy as Debian's unit does: with a master, which passes the listeners on by itself,
// and answers on a socket of its own.
func startHAProxyWith(t *testing.T, recipe, setting string) *other {
	path := tier.Need(t, "haproxy")
	dir, address := otherPlace(t)
	config, control := filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "master.sock")
	files.Put(t, []byte(strings.NewReplacer("ADDRESS", address, "BODY", string(otherAnswer.Body), "OPTION", setting).Replace(haproxyConfig)), config, 0o644)
	master := runOther(t, dir, path, "-W", "-f", config, "-S", control)
	t.Cleanup(func() {
		serving, leaving := haproxyWorkers(control)
		endOther(t, []*process.Process{master}, append(serving, leaving...))
	})
	o := &other{
		name:    fmt.Sprintf("HAProxy %s, %s", versionAfter(t, path, "version "), recipe),
		address: address,
		workers: func() []int { serving, _ := haproxyWorkers(control); return serving },
		answers: func() int { return whoAnswers(address) },
		renew:   func(t *testing.T) { signalOther(t, master, syscall.SIGUSR2) },
	}
	await.Until(t, 10*time.Second, "answer of HAProxy", func() bool { return o.answers() != 0 })
	return o
}

// haproxyWorkers asks the master for its workers: those that serve, and old ones that still have connections.
func haproxyWorkers(control string) (serving, leaving []int) {
	c, err := net.DialTimeout("unix", control, time.Second)
	if err != nil {
		return nil, nil // it executes itself anew at each reload
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "show proc; quit\n")
	said, _ := io.ReadAll(c)
	list := &serving
	for line := range strings.Lines(string(said)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "# old workers") {
			list = &leaving
		}
		if len(fields) > 1 && fields[1] == "worker" {
			if pid, err := strconv.Atoi(fields[0]); err == nil {
				*list = append(*list, pid)
			}
		}
	}
	return serving, leaving
}

func startBatonAsOther(t *testing.T) *other {
	build.Version(t, "v2") // built before the clock runs
	b := service.Start(t, service.Files(t), service.Args("-idle-timeout", "1h", "-log-level", "warn"))
	next := 2
	return &other{
		name:    "Baton, `baton upgrade`",
		address: b.Address,
		workers: func() []int { return []int{b.PID()} },
		answers: func() int {
			if s, err := b.TryStatus(); err == nil && b.Get("/100.bin").Status == 200 {
				return s.PID
			}
			return 0
		},
		renew: func(t *testing.T) {
			b.Deploy([]string{"v1", "v2"}[(next+1)%2])
			if u := b.Upgrade(); u.Generation != next {
				t.Fatalf("upgrade: got generation %d, want %d", u.Generation, next)
			}
			next++
		},
	}
}

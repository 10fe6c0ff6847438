// The program that README shows to who writes a service: built as it stands there, and upgraded under load.
package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestEmbedding(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, _ := strings.Cut(string(readme), "```go\n")
	program, _, found := strings.Cut(program, "```")
	if !found {
		t.Fatal("README shows no program")
	}
	kept, err := os.ReadFile("testdata/embed/main.go")
	if err != nil {
		t.Fatal(err)
	}
	if program != string(kept) {
		t.Error("the program in README is not the one in testdata/embed")
	}
	example, err := os.ReadFile("../server/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(program, "func main() {\n")
	if body == "" || !strings.HasSuffix(string(example), body) {
		t.Error("the example of package server is not the program in README")
	}

	address, serving := startEmbedded(t, "testdata/embed")
	first := serving.pid
	await(t, 10*time.Second, "answer", func() bool { return greeter(address) == first })

	counts, stop := startLoad(t, load{network: "tcp", address: address,
		exchanges: []exchange{newExchange("GET", "/", nil, 200, nil), newExchange("POST", "/", []byte("x"), 200, nil)},
		clients:   [habits]int{backToBack: 4, pausing: 16, perRequest: 2, perRequestEnd: 2}})
	for range 5 {
		before := counts.Requests()
		await(t, 10*time.Second, "load", func() bool { return counts.Requests() > before+500 })
		serving = upgradeEmbedded(t, address, serving)
	}
	stop()
	if counts.Failures() != 0 {
		t.Errorf("requests were lost: %v", counts)
	}
	if n := counts.connections[backToBack].Load() + counts.connections[pausing].Load(); n != 4+16 {
		t.Errorf("connections of clients that keep theirs: got %d for %d clients: %v", n, 4+16, counts)
	}
	stopEmbedded(t, serving)
}

var readmeAddress = regexp.MustCompile(`127\.0\.0\.1:80\d\d`)

// startEmbedded builds the program in a folder, with an address that is free in the place of the one in it, and starts it.
func startEmbedded(t *testing.T, dir string, env ...string) (address string, serving *process) {
	t.Helper()
	host := loopback()
	address = net.JoinHostPort(host, freePort(t, host))
	temp := t.TempDir()
	build := []string{"build", "-o", filepath.Join(temp, "service")}
	if race {
		build = append(build, "-race")
	}
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(temp, filepath.Base(source))
		put(t, readmeAddress.ReplaceAll(text, []byte(address)), copied, 0o644)
		build = append(build, copied)
	}
	if out, err := exec.Command("go", build...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}

	service := exec.Command(filepath.Join(temp, "service"))
	service.Env = append(os.Environ(), env...)
	// A pipe instead of a file would keep Wait from returning while successors live.
	stderr, err := os.Create(filepath.Join(temp, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	service.Stderr = stderr
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := os.ReadFile(stderr.Name())
			t.Logf("stderr:\n%s", out)
		}
	})
	return address, followEmbedded(t, service.Process.Pid)
}

// followEmbedded follows a generation, which is gone at the end of the test.
func followEmbedded(t *testing.T, pid int) *process {
	t.Helper()
	p, err := follow(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.alive() {
			unix.Kill(p.pid, syscall.SIGKILL)
			p.within(5 * time.Second)
		}
	})
	return p
}

// upgradeEmbedded upgrades, and awaits the end of the predecessor.
func upgradeEmbedded(t *testing.T, address string, predecessor *process) (serving *process) {
	t.Helper()
	if err := unix.Kill(predecessor.pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	successor := 0 // for a moment both accept, so that one who asks again may meet either
	await(t, 20*time.Second, "successor", func() bool {
		successor = greeter(address)
		return successor != 0 && successor != predecessor.pid
	})
	serving = followEmbedded(t, successor)
	if !predecessor.within(20 * time.Second) {
		t.Fatal("upgrade: the predecessor is still there after 20 s")
	}
	if predecessor.known && predecessor.status.ExitStatus() != 0 {
		t.Errorf("upgrade: predecessor: got %s, want exit status 0", predecessor.outcome())
	}
	return serving
}

// stopEmbedded stops the service, and checks that it ends well.
func stopEmbedded(t *testing.T, serving *process) {
	t.Helper()
	if err := unix.Kill(serving.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !serving.within(20*time.Second) || serving.known && serving.status.ExitStatus() != 0 {
		t.Errorf("stop: got %s, want exit status 0", serving.outcome())
	}
}

// What a generation has buffered for a database is there after upgrades and a stop, and what the service does last is
// done once.
func TestEmbeddingWithDatabase(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("testdata/database/main.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(readme), "```go\n")
	if len(blocks) < 3 {
		t.Fatal("README shows no hooks")
	}
	if hooks, _, _ := strings.Cut(blocks[2], "```"); !strings.Contains(string(program), hooks) {
		t.Error("the hooks in README are not those in testdata/database")
	}

	table := filepath.Join(t.TempDir(), "table")
	address, serving := startEmbedded(t, "testdata/database", "DATABASE_URL="+table)
	await(t, 20*time.Second, "answer", func() bool { return greeter(address) != 0 })
	counts, stop := startLoad(t, load{network: "tcp", address: address,
		exchanges: []exchange{newExchange("GET", "/hit", nil, 200, nil)}, clients: [habits]int{backToBack: 2, pausing: 8, perRequest: 2}})
	for range 3 {
		before := counts.Requests()
		await(t, 20*time.Second, "load", func() bool { return counts.Requests() > before+500 })
		serving = upgradeEmbedded(t, address, serving)
	}
	if stop(); counts.Failures() != 0 {
		t.Errorf("requests were lost: %v", counts)
	}
	last := serving.pid
	stopEmbedded(t, serving)

	text, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	rows, generations, deleted := 0, make(map[string]bool), ""
	for line := range strings.Lines(string(text)) {
		pid, statement, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(statement, "DELETE"):
			deleted += pid + " "
		case strings.HasSuffix(statement, " /hit\n"):
			rows++
			generations[pid] = true
		}
	}
	if int64(rows) != counts.Requests() {
		t.Errorf("got %d rows of %d requests that were answered", rows, counts.Requests())
	}
	if len(generations) != 4 {
		t.Errorf("got rows of %d generations, want 4", len(generations))
	}
	if want := fmt.Sprint(last, " "); deleted != want {
		t.Errorf("deregistered by %q, want once, by the last generation %q", deleted, want)
	}
}

// greeter returns the pid that the service tells on a new connection, or 0.
func greeter(address string) (pid int) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: (&net.Dialer{Timeout: time.Second}).DialContext}}
	resp, err := client.Get("http://" + address + "/")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Sscanf(string(body), "hello from %d", &pid)
	return pid
}

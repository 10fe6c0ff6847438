package embed

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

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The program that README shows to who writes a service: built as it stands there, and upgraded under load.

func TestEmbedding(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, _ := strings.Cut(string(readme), "```go\n")
	program, _, found := strings.Cut(program, "```")
	if !found {
		t.Fatal("README shows no program")
	}
	kept, err := os.ReadFile("../testdata/embed/main.go")
	if err != nil {
		t.Fatal(err)
	}
	if program != string(kept) {
		t.Error("the program in README is not the one in testdata/embed")
	}
	example, err := os.ReadFile("../../server/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(program, "func main() {\n")
	if body == "" || !strings.HasSuffix(string(example), body) {
		t.Error("the example of package server is not the program in README")
	}

	address, serving := startEmbedded(t, "../testdata/embed")
	first := serving.Pid
	await.Until(t, "answer", func() bool { return greeter(address) == first })

	counts, stop := load.Start(t, load.Load{Network: "tcp", Address: address,
		Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, nil), exchange.New("POST", "/", []byte("x"), 200, nil)},
		Clients:   [load.Habits]int{load.BackToBack: 4, load.Pausing: 16, load.PerRequest: 2, load.PerRequestEnd: 2}})
	for range 5 {
		before := counts.Requests()
		await.Until(t, "load", func() bool { return counts.Requests() > before+500 })
		serving = upgradeEmbedded(t, address, serving)
	}
	stop()
	if counts.Failures() != 0 {
		t.Errorf("requests were lost: %v", counts)
	}
	if n := counts.Connections[load.BackToBack].Load() + counts.Connections[load.Pausing].Load(); n != 4+16 {
		t.Errorf("connections of clients that keep theirs: got %d for %d clients: %v", n, 4+16, counts)
	}
	stopEmbedded(t, serving)
}

var readmeAddress = regexp.MustCompile(`127\.0\.0\.1:80\d\d`)

// startEmbedded builds the program in a directory, with an address that is free in the place of the one in it, and starts it.
func startEmbedded(t *testing.T, dir string, env ...string) (address string, serving *process.Process) {
	t.Helper()
	host := service.Loopback()
	address = net.JoinHostPort(host, service.FreePort(t, host))
	temp := t.TempDir()
	buildOutput := []string{"build", "-o", filepath.Join(temp, "service")}
	if build.Race {
		buildOutput = append(buildOutput, "-race")
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
		files.Put(t, readmeAddress.ReplaceAll(text, []byte(address)), copied, 0o644)
		buildOutput = append(buildOutput, copied)
	}
	if out, err := exec.Command("go", buildOutput...).CombinedOutput(); err != nil {
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
func followEmbedded(t *testing.T, pid int) *process.Process {
	t.Helper()
	p, err := process.Follow(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.Alive() {
			unix.Kill(p.Pid, syscall.SIGKILL)
			p.Within(await.Hang)
		}
	})
	return p
}

// upgradeEmbedded upgrades, and awaits the end of the predecessor.
func upgradeEmbedded(t *testing.T, address string, predecessor *process.Process) (serving *process.Process) {
	t.Helper()
	if err := unix.Kill(predecessor.Pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	successor := 0 // for a moment both accept, so that one who asks again may meet either
	await.Until(t, "successor", func() bool {
		successor = greeter(address)
		return successor != 0 && successor != predecessor.Pid
	})
	serving = followEmbedded(t, successor)
	if !predecessor.Within(await.Hang) {
		t.Fatal("upgrade: the predecessor is still there after 20 s")
	}
	if predecessor.Known && predecessor.Status.ExitStatus() != 0 {
		t.Errorf("upgrade: predecessor: got %s, want exit status 0", predecessor.Outcome())
	}
	return serving
}

// stopEmbedded stops the service, and checks that it ends well.
func stopEmbedded(t *testing.T, serving *process.Process) {
	t.Helper()
	if err := unix.Kill(serving.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !serving.Within(await.Hang) || serving.Known && serving.Status.ExitStatus() != 0 {
		t.Errorf("stop: got %s, want exit status 0", serving.Outcome())
	}
}

// What a generation has buffered for a database is there after upgrades and a stop, and what the service does last is
// done once.
func TestEmbeddingWithDatabase(t *testing.T) {
	tier.Slow(t, "builds and upgrades one more service")
	t.Parallel()
	table := filepath.Join(t.TempDir(), "table")
	address, serving := startEmbedded(t, "../testdata/database", "DATABASE_URL="+table)
	await.Until(t, "answer", func() bool { return greeter(address) != 0 })
	counts, stop := load.Start(t, load.Load{Network: "tcp", Address: address,
		Exchanges: []exchange.Exchange{exchange.New("GET", "/hit", nil, 200, nil)}, Clients: [load.Habits]int{load.BackToBack: 2, load.Pausing: 8, load.PerRequest: 2}})
	for range 3 {
		before := counts.Requests()
		await.Until(t, "load", func() bool { return counts.Requests() > before+500 })
		serving = upgradeEmbedded(t, address, serving)
	}
	if stop(); counts.Failures() != 0 {
		t.Errorf("requests were lost: %v", counts)
	}
	last := serving.Pid
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

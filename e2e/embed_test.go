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

	// It listens where README says; here that may be taken.
	host := loopback()
	address := net.JoinHostPort(host, freePort(t, host))
	source := filepath.Join(t.TempDir(), "main.go")
	put(t, []byte(strings.Replace(program, "127.0.0.1:8081", address, 1)), source, 0o644)
	bin := filepath.Join(t.TempDir(), "service")
	build := []string{"build", "-o", bin}
	if race {
		build = append(build, "-race")
	}
	if out, err := exec.Command("go", append(build, source)...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}

	service := exec.Command(bin)
	// A pipe instead of a file would keep Wait from returning while successors live.
	stderr, err := os.CreateTemp(t.TempDir(), "stderr")
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
	serving, err := follow(service.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(serving.pid, syscall.SIGKILL); serving.within(5 * time.Second) })
	await(t, 10*time.Second, "answer", func() bool { return greeter(address) == service.Process.Pid })

	counts, stop := startLoad(t, load{network: "tcp", address: address,
		exchanges: []exchange{newExchange("GET", "/", nil, 200, nil), newExchange("POST", "/", []byte("x"), 200, nil)},
		clients:   [habits]int{backToBack: 4, pausing: 16, perRequest: 2, perRequestEnd: 2}})
	for i := range 5 {
		before := counts.Requests()
		await(t, 10*time.Second, "load", func() bool { return counts.Requests() > before+500 })
		predecessor := serving
		if err := unix.Kill(predecessor.pid, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		successor := 0 // for a moment both accept, so that one who asks again may meet either
		await(t, 10*time.Second, "successor", func() bool {
			successor = greeter(address)
			return successor != 0 && successor != predecessor.pid
		})
		if serving, err = follow(successor); err != nil {
			t.Fatal(err)
		}
		if !predecessor.within(5 * time.Second) {
			t.Fatalf("upgrade %d: the predecessor is still there after 5 s", i+1)
		}
		if predecessor.known && predecessor.status.ExitStatus() != 0 {
			t.Errorf("upgrade %d: predecessor: got %s, want exit status 0", i+1, predecessor.outcome())
		}
	}
	stop()
	if counts.Failures() != 0 {
		t.Errorf("requests were lost: %v", counts)
	}
	if n := counts.connections[backToBack].Load() + counts.connections[pausing].Load(); n != 4+16 {
		t.Errorf("connections of clients that keep theirs: got %d for %d clients: %v", n, 4+16, counts)
	}
	if err := unix.Kill(serving.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !serving.within(5*time.Second) || serving.known && serving.status.ExitStatus() != 0 {
		t.Errorf("stop: got %s, want exit status 0", serving.outcome())
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

package flip

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
)

// Right after Ready tableflip's goroutine may not have noticed that yet, as on a busy
// machine: a successor is executed all the same.
func TestUpgradeRightAfterReady(t *testing.T) {
	tier.Slow(t, "starts processes again and again")
	const variable = "FLIP_TEST_RIGHT_AFTER_READY"
	if os.Getenv(variable) != "" {
		p, err := New()
		if err == nil {
			os.Args[0] = "/bin/false"
			err = errors.Join(p.Ready(), p.Upgrade())
		}
		fmt.Println(err)
		os.Exit(0)
	}
	for range 12 { // half of which fail without the precaution
		cmd := exec.Command(os.Args[0], "-test.run", "^TestUpgradeRightAfterReady$")
		cmd.Env = append(os.Environ(), variable+"=1", "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0")
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), "exit status 1") {
			t.Fatalf("got %s, %v, want a successor that exits", out, err)
		}
	}
}

// What a process is as tableflip's: neither its environment nor its standard error is
// tableflip's business any more.
func TestNew(t *testing.T) {
	const unset = "FLIP_TEST_NEW"
	if os.Getenv(unset) != "" {
		before := os.Stderr
		p, err := New()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		tail, err := p.Stderr.Capture(os.Stdout)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stderr, "captured") // as a successor does, which gets this file
		fmt.Fprintln(before, "passed by")
		p.Stderr.Release()
		tail.Await()
		fmt.Fprintln(os.Stderr, "released")
		fmt.Println(tail.Lines(), p.HasPredecessor(), p.Pipe(), p.PredecessorGone() == nil, os.Args[0][0] == '/')
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestNew$")
	cmd.Env = append(os.Environ(), unset+"=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if want := "captured\n[captured] false 0 true true\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
	if want := "passed by\nreleased\n"; stderr.String() != want {
		t.Errorf("standard error: got %q, want %q", stderr.String(), want)
	}
}

// A successor that hangs before anything is heard of it can be killed, and nothing else is.
func TestKillUnready(t *testing.T) {
	const variable = "FLIP_TEST_KILL_UNREADY"
	if os.Getenv(variable) != "" {
		p, err := New()
		if err == nil {
			err = p.Ready()
		}
		other := exec.Command("/bin/sleep", "1000")
		if err == nil {
			err = other.Start()
		}
		defer other.Process.Kill()
		os.Args = []string{"/bin/sleep", "1000"}
		ended := make(chan error)
		go func() { ended <- p.Upgrade() }()
		for tick := time.NewTicker(10 * time.Millisecond); err == nil; {
			select {
			case err = <-ended:
			case <-tick.C:
				if err := p.KillUnready(); err != nil {
					fmt.Println(err)
				}
			}
		}
		fmt.Println(err, other.Process.Signal(syscall.Signal(0)))
		other.Process.Kill()
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKillUnready$")
	cmd.Env = append(os.Environ(), variable+"=1", "GORACE=atexit_sleep_ms=0")
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "signal: killed <nil>") {
		t.Fatalf("got %s, %v, want a successor that was killed, and another program that lives", out, err)
	}
}

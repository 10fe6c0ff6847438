package flip

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A successor whose predecessor was killed writes its log into a broken pipe, also
// in the moment in which it gets its true standard error. It must not die of that.
func TestRestoreWithABrokenPipe(t *testing.T) {
	if testing.Short() {
		t.Skip("slow: starts processes again and again; go test without -short includes it")
	}
	const variable = "UPGRADE_TEST_BROKEN_PIPE"
	if os.Getenv(variable) != "" {
		log := os.Stderr // as a logger has it that was made before
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			os.Exit(3)
		}
		s, err := newStderr(null)
		if err != nil {
			os.Exit(4)
		}
		for range 4 {
			go func() {
				for {
					fmt.Fprintln(log, "request")
				}
			}()
		}
		time.Sleep(2 * time.Millisecond)
		s.Restore()
		time.Sleep(2 * time.Millisecond)
		os.Exit(0)
	}
	for range 50 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run", "^TestRestoreWithABrokenPipe$")
		cmd.Env = append(os.Environ(), variable+"=1", "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		r.Close()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("got %v, want a process that lives on", err)
		}
	}
}

package flip

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
)

// A successor whose predecessor was killed writes its log into a broken pipe, also
// in the moment in which it gets its true standard error. It must not die of that.
func TestRestoreWithABrokenPipe(t *testing.T) {
	tier.Slow(t, "starts processes again and again")
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

// slowly takes its time for each line.
type slowly struct{}

func (slowly) Write(p []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return len(p), nil
}

// What a successor has written is there however long it takes to read, and also if something
// that it has started keeps its standard error.
func TestAwaitReadsAllThatWasWritten(t *testing.T) {
	for _, kept := range []bool{false, true} {
		t.Run(fmt.Sprintf("standard error kept: %v", kept), func(t *testing.T) {
			real, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer real.Close()
			given, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer given.Close()
			s := &Stderr{real: real, given: given}
			tail, err := s.Capture(slowly{})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				fmt.Fprintf(given, "%d\n", i)
			}
			fmt.Fprint(given, "the reason")
			if !kept {
				s.Release()
			}
			tail.Await()
			lines := tail.Lines()
			if len(lines) != tailLines || lines[0] != "81" || lines[tailLines-1] != "the reason" {
				t.Errorf("got %q, want the last 20 lines", lines)
			}
			if kept {
				s.Release()
			}
			<-tail.end
		})
	}
}

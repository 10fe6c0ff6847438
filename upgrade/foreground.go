package upgrade

// This file holds the process that stays in the foreground where somebody
// waits for the first process to end, and takes its end for that of the service.

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// attended tells a generation that a process in the foreground waits for it.
const attended = "BATON_ATTENDED"

// Foreground makes the calling process wait for a line of generations instead
// of beginning one, if its end would be mistaken for the service's: as process 1
// of a container, and below `go run`, which removes the program when it ends. It
// starts the program again as the first generation, passes SIGHUP, SIGTERM and
// SIGINT on, and returns the exit code of the last generation and true when no
// process is left. Anywhere else it returns false at once. A program calls it
// before anything else.
func Foreground() (exitCode int, waited bool) {
	if os.Getenv(attended) != "" || os.Getpid() != 1 && !belowGoRun(os.Args[0]) {
		return 0, false
	}
	signals := Signals()
	defer signal.Reset()
	// Generations whose predecessor is gone become children of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, false // an old kernel: better a generation than nothing
	}
	first := exec.Command(os.Args[0], os.Args[1:]...)
	first.Env = append(os.Environ(), attended+"=yes")
	first.Stdin, first.Stdout, first.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := first.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start the first generation:", err)
		return 1, true
	}
	ended := make(chan int)
	go func() {
		code := 1
		for {
			var status syscall.WaitStatus
			_, err := syscall.Wait4(-1, &status, 0, nil)
			if err == syscall.EINTR {
				continue
			} else if err != nil { // no child is left
				ended <- code
				return
			}
			if code = status.ExitStatus(); status.Signaled() {
				code = 128 + int(status.Signal())
			}
		}
	}()
	for {
		select {
		case code := <-ended:
			return code, true
		case sig := <-signals:
			// What is typed on a terminal reaches the generations as well.
			if sig != syscall.SIGINT || !term.IsTerminal(0) {
				passOnSignal(os.Getpid(), sig.(syscall.Signal))
			}
		}
	}
}

// belowGoRun tells whether `go run` has built the program and waits for it.
func belowGoRun(program string) bool {
	dir := filepath.Dir(program)
	return filepath.Base(dir) == "exe" && strings.Contains(dir, string(filepath.Separator)+"go-build")
}

// passOnSignal signals all descendants of a process. Each generation knows what
// to make of it: one that drains leaves a stop to its successor, and triggers
// that come in twice are one.
func passOnSignal(pid int, sig syscall.Signal) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				passOnSignal(n, sig)
				syscall.Kill(n, sig)
			}
		}
	}
}

package upgrade

// This file holds the process that stays in the foreground where somebody
// waits for the first process to end, and takes its end for that of the service.

import (
	"fmt"
	"os"
	"os/exec"
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
// of a container, below `go run`, which removes the program when it ends, and as
// the leader of a session on a terminal, which ends with it. It starts the program
// again as the first generation, in a process group of its own, passes SIGHUP,
// SIGTERM and SIGINT on, and returns the exit code of the last generation and
// true when none is left. Anywhere else it returns false at once. A program calls
// it before anything else.
func Foreground() (exitCode int, waited bool) {
	if os.Getenv(attended) != "" || os.Getpid() != 1 && !belowGoRun() && !leadsTerminal() {
		return 0, false
	}
	if absoluteProgram() != nil {
		return 0, false
	}
	signals := Signals()
	// Generations whose predecessor is gone become children of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, false // an old kernel: better a generation than nothing
	}
	first := exec.Command(os.Args[0], os.Args[1:]...)
	first.Env = append(os.Environ(), attended+"=yes")
	first.Stdin, first.Stdout, first.Stderr = os.Stdin, os.Stdout, os.Stderr
	first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what is typed reaches this process only
	if err := first.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start the first generation:", err)
		return 1, true
	}
	ended := make(chan int)
	go func() { ended <- awaitGenerations(first.Process.Pid) }()
	for {
		select {
		case code := <-ended:
			return code, true
		case sig := <-signals:
			// Each generation knows what to make of it: one that drains leaves
			// a stop to its successor, and triggers that come in twice are one.
			for _, pid := range generations(os.Getpid()) {
				syscall.Kill(pid, sig.(syscall.Signal))
			}
		}
	}
}

// awaitGenerations reaps children until no generation is left, and returns the
// exit code of the last one. Others may be among them, as process 1 has them.
func awaitGenerations(first int) (code int) {
	known := map[int]bool{first: true}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		} else if err != nil { // no child is left
			return code
		}
		if known[pid] {
			if code = status.ExitStatus(); status.Signaled() {
				code = 128 + int(status.Signal())
			}
		}
		alive := generations(os.Getpid())
		if len(alive) == 0 {
			return code
		}
		for _, pid := range alive {
			known[pid] = true
		}
	}
}

// belowGoRun tells whether the program was started by `go run`.
func belowGoRun() bool {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", os.Getppid()))
	words := strings.Split(string(line), "\x00")
	return len(words) > 1 && filepath.Base(words[0]) == "go" && words[1] == "run"
}

// leadsTerminal tells whether a terminal hangs up when this process ends.
func leadsTerminal() bool {
	session, err := unix.Getsid(0)
	return err == nil && session == os.Getpid() && term.IsTerminal(0)
}

// generations returns the descendants of a process that run this program.
func generations(pid int) (found []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(children)) {
			n, err := strconv.Atoi(child)
			if err != nil {
				continue
			}
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n))
			if program, _, _ := strings.Cut(string(line), "\x00"); program == os.Args[0] {
				found = append(found, n)
			}
			found = append(found, generations(n)...)
		}
	}
	return found
}

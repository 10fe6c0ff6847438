package upgrade

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"example.com/baton/upgrade/internal/flip"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Foreground is a process that stays until the last generation is gone, for whoever has
// started it and takes its end for that of the service.
type Foreground struct {
	// Variable is the environment variable by which the generations know of that
	// process; it holds its pid. All releases of a program must agree on it. Empty
	// means "UPGRADE_FOREGROUND".
	Variable string
	// Always is set if the process is wanted wherever the program is started.
	Always bool
}

func (f Foreground) variable() string { return cmp.Or(f.Variable, "UPGRADE_FOREGROUND") }

// Wait makes the calling process wait for a line of generations instead of
// beginning one, if Always is set or its end would be mistaken for the service's:
// as process 1 of a container, below `go run`, which removes the program when it
// ends, and as the leader of a session on a terminal, which ends with it. It starts
// the program again as the first generation, in a process group of its own, passes
// SIGHUP, SIGTERM and SIGINT on to all in that group, other programs that a generation has
// started among them unless those have a group of their own, and returns the exit code of the
// last generation and true when none is left. Anywhere else it returns false at
// once. A program calls it before anything else but [Signals].
func (f Foreground) Wait(signals <-chan os.Signal) (exitCode int, waited bool) {
	if pid := os.Getenv(f.variable()); pid != "" {
		takePlace(pid)
		return 0, false
	}
	if !f.Always && os.Getpid() != 1 && !belowGoRun() && !leadsTerminal() {
		return 0, false
	}
	if flip.AbsoluteProgram() != nil {
		return 0, false
	}
	// Generations whose predecessor is gone become children of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, false // an old kernel: better a generation than nothing
	}
	first := exec.Command(os.Args[0], os.Args[1:]...)
	first.Env = append(os.Environ(), f.variable()+"="+strconv.Itoa(os.Getpid()))
	first.Stdin, first.Stdout, first.Stderr = os.Stdin, os.Stdout, os.Stderr
	first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what is typed reaches this process only
	if err := first.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start the first generation:", err)
		return 1, true
	}
	closePassed()
	group := -first.Process.Pid
	ended := make(chan int)
	go func() { ended <- awaitGenerations(group) }()
	for {
		select {
		case code := <-ended:
			return code, true
		case sig := <-signals:
			// Each generation knows what to make of it: one that drains leaves
			// a stop to its successor, and triggers that come in twice are one.
			syscall.Kill(group, sig.(syscall.Signal))
		}
	}
}

// awaitGenerations reaps children until none is left in the group of the
// generations, and returns the exit code of the last one there. Others may be among
// them, as process 1 has them; of those none is waited for. It does without /proc,
// which may be missing, be that of the host, or not list children.
func awaitGenerations(group int) (code int) {
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		} else if err != nil { // no child is left
			return code
		}
		if code = status.ExitStatus(); status.Signaled() {
			code = 128 + int(status.Signal())
		}
		if syscall.Kill(group, 0) == syscall.ESRCH {
			return code
		}
	}
}

// byPID are the variables of systemd that name the process which it has started.
var byPID = []string{"LISTEN_PID", "WATCHDOG_PID"}

// takePlace makes what was meant for the process in the foreground mean this one.
func takePlace(foreground string) {
	for _, name := range byPID {
		if os.Getenv(name) == foreground {
			os.Setenv(name, strconv.Itoa(os.Getpid()))
		}
	}
}

// closePassed closes the sockets that systemd has passed to this process. The first
// generation has them, and must be the only one.
func closePassed() {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return
	}
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	const first = 3 // sd_listen_fds(3)
	for fd := first; fd < first+n; fd++ {
		syscall.Close(fd)
	}
}

// supervisors are programs that take the end of the process which they have started
// for that of the service.
var supervisors = []string{"tini", "docker-init", "dumb-init", "catatonit", "podman-init", "supervisord", "runsv",
	"supervise", "s6-supervise", "circusd", "foreman", "honcho", "overmind"}

// passers start a program, wait for it and exit as it does.
var passers = []string{"sh", "bash", "dash", "ash", "busybox", "ksh", "zsh", "timeout", "su", "sudo", "runuser", "flock"}

// outlivesHangup reports whether this process was started with nohup(1): by a person, who
// lets go of it.
var outlivesHangup = signal.Ignored(syscall.SIGHUP)

// Supervisor returns the name of the parent of this process, or of the parent of a
// shell or a script that has started it, if that would take the end of this process for
// that of the service: Always should be set then. Empty
// means that none is known, or that a process is in the foreground already.
func (f Foreground) Supervisor() string {
	if os.Getenv(f.variable()) != "" || os.Getenv("NOTIFY_SOCKET") != "" || flip.IsSuccessor() || outlivesHangup {
		return ""
	}
	if self, _ := os.Readlink("/proc/self"); self != strconv.Itoa(os.Getpid()) { // none, or that of another namespace
		if os.Getppid() == 1 {
			return "process 1"
		}
		return ""
	}
	for pid := os.Getppid(); pid > 0; {
		names, parent := programOf(pid)
		switch {
		case len(names) == 0:
			return ""
		case slices.ContainsFunc(names, func(name string) bool { return slices.Contains(supervisors, name) }):
			return names[0]
		case pid == 1 && names[0] != "systemd" && names[0] != "init":
			return names[0]
		case !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(passers, name) }):
			return ""
		case unix.Getpgrp() == os.Getpid(): // a job of an interactive shell, which goes on
			return ""
		}
		pid = parent
	}
	return ""
}

// programOf returns the names of the program that a process runs, which are several for
// a script, and its parent.
func programOf(pid int) (names []string, parent int) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if err != nil || open < 0 || end < open {
		return nil, 0
	}
	names = append(names, string(stat[open+1:end]))
	if fields := bytes.Fields(stat[end+1:]); len(fields) > 1 { // state, parent, …: proc(5)
		parent, _ = strconv.Atoi(string(fields[1]))
	}
	if program, err := os.Readlink(dir + "exe"); err == nil {
		names = append(names, filepath.Base(program))
	}
	if line, err := os.ReadFile(dir + "cmdline"); err == nil { // python3 /usr/bin/supervisord
		if _, script, found := strings.Cut(string(line), "\x00"); found {
			script, _, _ = strings.Cut(script, "\x00")
			names = append(names, filepath.Base(script))
		}
	}
	return names, parent
}

// belowGoRun reports whether the program was started by `go run`.
func belowGoRun() bool {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", os.Getppid()))
	words := strings.Split(string(line), "\x00")
	return len(words) > 1 && filepath.Base(words[0]) == "go" && words[1] == "run"
}

// leadsTerminal reports whether a terminal hangs up when this process ends.
func leadsTerminal() bool {
	session, err := unix.Getsid(0)
	return err == nil && session == os.Getpid() && term.IsTerminal(0)
}

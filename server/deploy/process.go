package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is what the main process of a service was given.
type process struct {
	PID         int
	Arguments   []string // with the program first
	Environment []string // without what is for this one process
	UID, GID    int
	Groups      []int
}

// readProcess reads about a process from /proc.
func readProcess(pid int) (*process, error) {
	read := func(name string) string {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		return string(content)
	}
	if _, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil {
		return nil, err
	}
	p := &process{PID: pid}
	if !p.parseStatus(read("status")) {
		return nil, errMissing
	}
	if p.Arguments = splitNUL(read("cmdline")); len(p.Arguments) == 0 {
		return nil, errMissing
	}
	p.Environment = slices.DeleteFunc(splitNUL(read("environ")), isOwn.MatchString)
	return p, nil
}

// isOwn matches the variables that are for one process alone, and what a shell keeps there.
var isOwn = regexp.MustCompile(`^(NOTIFY_SOCKET|WATCHDOG_\w*|LISTEN_\w*|TABLEFLIP_\w*|PWD|OLDPWD|SHLVL)=`)

func splitNUL(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\x00"), "\x00")
}

// parseStatus reads the effective user and the groups from /proc/PID/status.
func (p *process) parseStatus(status string) bool {
	found := 0
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		var ids []int
		for _, field := range strings.Fields(value) {
			id, _ := strconv.Atoi(field)
			ids = append(ids, id)
		}
		switch {
		case key == "Uid" && len(ids) == 4:
			p.UID, found = ids[0], found+1
		case key == "Gid" && len(ids) == 4:
			p.GID, found = ids[0], found+1
		case key == "Groups":
			p.Groups = ids
		}
	}
	return found == 2
}

func (p *process) file(name string) string { return fmt.Sprintf("/proc/%d/%s", p.PID, name) }

// runTime bounds a command of a binary that is checked.
const runTime = 20 * time.Second

// Run runs a program as the service would: as its user, in its directories, with its
// environment. The error is about what it printed, and only set if it did not exit with 0.
// A nil process runs it as the caller does.
func (p *process) Run(program string, args ...string) (output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), runTime)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	started := make(chan error, 1)
	go func() {
		// The thread becomes one of the service's, and so ends with this goroutine.
		runtime.LockOSThread()
		if p != nil {
			p.adopt(cmd)
		}
		started <- cmd.Start()
	}()
	if err = <-started; err == nil {
		err = cmd.Wait()
	}
	output = strings.TrimRight(out.String(), "\n")
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return output, &runError{124, fmt.Sprintf("no answer within %.0f s", runTime.Seconds())}
	case errors.As(err, &exit):
		code := exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal())
		}
		return output, &runError{code, output}
	case err != nil:
		return output, &runError{126, err.Error()}
	}
	return output, nil
}

// A runError is the end of a program that failed, with what it printed.
type runError struct {
	code   int
	output string
}

func (e *runError) Error() string { return e.output }

// adopt prepares the thread and the command for a start as the service. The environment,
// which the service can change, reaches nothing that runs as another user.
func (p *process) adopt(cmd *exec.Cmd) {
	cmd.Env = p.Environment
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	if os.Geteuid() != 0 {
		cmd.Dir = p.file("cwd")
		return
	}
	if p.UID != 0 {
		groups := make([]uint32, len(p.Groups))
		for i, g := range p.Groups {
			groups[i] = uint32(g)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(p.UID), Gid: uint32(p.GID), Groups: groups}}
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if !p.enter(filepath.Dir(cmd.Path)) {
		cmd.Dir = p.file("cwd")
	}
}

// enter brings the thread to where the service is: in its mount namespace, its root and
// its working directory. It does nothing if a directory cannot be seen from there, as a
// sandbox may have it, or if the kernel does not permit it.
func (p *process) enter(dir string) bool {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	root, err := unix.Open(p.file("root"), flags, 0)
	if err != nil {
		return false
	}
	defer unix.Close(root)
	seen, err := unix.Openat2(root, dir, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return false
	}
	unix.Close(seen)
	cwd, err := unix.Open(p.file("cwd"), flags, 0)
	if err != nil {
		return false
	}
	defer unix.Close(cwd)
	mounts, err := unix.Open(p.file("ns/mnt"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(mounts)
	if unix.Unshare(unix.CLONE_FS) != nil || unix.Setns(mounts, unix.CLONE_NEWNS) != nil {
		return false
	}
	return unix.Fchdir(root) == nil && unix.Chroot(".") == nil && unix.Fchdir(cwd) == nil
}

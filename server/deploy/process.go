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

// readProcess reads about a process from /proc. It returns nil if that is not possible.
func readProcess(pid int) *process {
	read := func(name string) string {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		return string(content)
	}
	p := &process{PID: pid, Arguments: splitNUL(read("cmdline"))}
	_, err := os.Readlink(p.file("cwd"))
	if err != nil || !p.parseStatus(read("status")) || len(p.Arguments) == 0 {
		return nil
	}
	p.Environment = slices.DeleteFunc(splitNUL(read("environ")), isOwn.MatchString)
	return p
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

// childrenOf returns the processes that a process has started.
func childrenOf(pid int) (children []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // of each of its threads
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// hasEnded reports whether a process is no more, or a zombie.
func hasEnded(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || bytes.Contains(status, []byte("\nState:\tZ"))
}

func (p *process) file(name string) string { return fmt.Sprintf("/proc/%d/%s", p.PID, name) }

// runTime bounds a command of a binary that is checked.
const runTime = 20 * time.Second

// run runs a program as the service would: as its user, in its directories, with its
// environment. It returns what that printed, or why it did not run, and the exit code as a
// shell has it. A nil process runs it as the caller does; root runs what another may change as that one.
func (p *process) run(program string, args ...string) (output string, code int) {
	if p == nil && os.Geteuid() == 0 {
		resolved, err := filepath.EvalSymlinks(program)
		if err == nil {
			program, err = filepath.Abs(resolved)
		}
		if err != nil {
			return err.Error(), 126
		}
		p = changer(program)
	}
	ctx, cancel := context.WithTimeout(context.Background(), runTime)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	var err error
	onOwnThread(func() {
		if p != nil {
			p.adopt(cmd)
		}
		err = cmd.Start()
	})
	if err == nil {
		err = cmd.Wait()
	}
	output = strings.TrimRight(out.String(), "\n")
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return strings.TrimLeft(fmt.Sprintf("%s\nno answer within %.0f s", output, runTime.Seconds()), "\n"), 124
	case errors.As(err, &exit):
		code = exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal())
		}
		return output, code
	case err != nil:
		return err.Error(), 126
	}
	return output, 0
}

// nobody is the user without any rights.
const nobody = 65534

// changer returns a process of whoever else than root may change a file, for its owner is another or that
// of a directory above, or nobody if they are not the only ones. It returns nil if only root may.
func changer(path string) *process {
	for at := path; ; at = filepath.Dir(at) {
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return &process{UID: nobody, GID: nobody}
		}
		isSticky := at != path && st.Mode&unix.S_ISVTX != 0 // in it, others change only what is theirs
		switch {
		case st.Uid != 0:
			return &process{UID: int(st.Uid), GID: nobody}
		case st.Mode&0o022 != 0 && !isSticky:
			return &process{UID: nobody, GID: nobody}
		case at == "/":
			return nil
		}
	}
}

// onOwnThread calls f on a thread that ends with the call, because f makes it one of the
// service's. The main thread outlives every goroutine, so that f gets another one.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onOwnThread(f) // not on this one, which is held meanwhile
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

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
	if p.PID == 0 {
		cmd.Dir = "/"
	} else if !p.enter(filepath.Dir(cmd.Path)) {
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

// Package impostor makes the test binary another program: a successor that speaks the link between generations by
// hand, the way no release should, a stranger, or a process without system calls that a kernel or a sandbox may refuse.
package impostor

import (
	"encoding/gob"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/files"
)

// Variables that make the test binary another program, and what that is to do.
const (
	successorVariable = "E2E_SUCCESSOR" // steps, separated by spaces
	RefusedVariable   = "E2E_REFUSED"   // the program to execute without pidfds
	StrangerVariable  = "E2E_STRANGER"  // a step and what it is for
)

// Impersonate does not return if the test binary was executed as another program.
func Impersonate() {
	if steps := os.Getenv(successorVariable); steps != "" {
		succeed(strings.Fields(steps))
	}
	if step := os.Getenv(StrangerVariable); step != "" {
		beStrange(step)
	}
	if program := os.Getenv(RefusedVariable); program != "" {
		os.Unsetenv(RefusedVariable)
		refusePidfd()
		panic(syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ()))
	}
}

// Itself returns a successor that is the test binary.
func Itself(t testing.TB, steps string) []byte {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return files.Script(fmt.Sprintf(`%s="%s" exec "%s"`, successorVariable, steps, self))
}

// succeed is a successor that does what the steps say. Descriptor 3 is the pipe on which tableflip wants to
// hear that it is ready, 4 the one with the names of the descriptors from 5 on.
func succeed(steps []string) {
	signal.Ignore(syscall.SIGTERM, syscall.SIGPIPE)
	s := successor{ready: os.NewFile(3, "ready"), link: -1}
	var passed [][]string
	if err := gob.NewDecoder(os.NewFile(4, "names")).Decode(&passed); err != nil {
		panic(err)
	}
	for i, name := range passed {
		if name[0] == "fd" && name[1] == "link" {
			s.link = 5 + i
		}
	}
	for _, step := range steps {
		step, detail, _ := strings.Cut(step, "=")
		s.do(step, detail)
	}
	time.Sleep(time.Hour)
}

// successor has what the predecessor has given it.
type successor struct {
	ready *os.File
	link  int
}

func (s successor) do(step, detail string) {
	switch step {
	case "wait": // until a file is there
		for _, err := os.Stat(detail); err != nil; _, err = os.Stat(detail) {
			time.Sleep(2 * time.Millisecond)
		}
	case "await": // until the predecessor sends a message of that type
		s.await(detail)
	case "hello":
		s.send(hello(2, os.Getpid()))
	case "hello4":
		s.send(hello(4, os.Getpid()))
	case "impostor": // who would be killed in its place
		s.send(hello(2, os.Getppid()))
	case "prepared", "serving", "drained", "stop", "upgrade", "predecessor": // the last four are the predecessor's to say
		s.send(`{"type":"` + step + `"}`)
	case "malformed":
		s.send(`{"type":`)
	case "large": // more than is read
		unix.SetsockoptInt(s.link, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20)
		s.send(`{"type":"serving","x":"` + strings.Repeat("x", 160<<10) + `"}`)
	case "close":
		unix.Close(s.link)
	case "ready":
		s.ready.Write([]byte{42})
		s.ready.Close()
	case "deaf":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	case "exit":
		os.Exit(1)
	case "hang":
		fmt.Fprintln(os.Stderr, "hangs")
		time.Sleep(time.Hour)
	default:
		panic(step)
	}
}

func hello(protocol, pid int) string {
	return fmt.Sprintf(`{"type":"hello","hello":{"protocol":%d,"pid":%d,"version":"by hand"}}`, protocol, pid)
}

func (s successor) send(packet string) {
	if err := unix.Sendmsg(s.link, []byte(packet), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		fmt.Fprintln(os.Stderr, "send on the link:", err)
	}
}

// await reads until a message of a type has come.
func (s successor) await(kind string) {
	for packet := make([]byte, 1<<18); ; time.Sleep(2 * time.Millisecond) {
		n, err := unix.Read(s.link, packet)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			panic(err)
		}
		if n > 0 && strings.HasPrefix(string(packet[:n]), `{"type":"`+kind+`"`) {
			return
		}
	}
}

// beStrange does something that every user may do, prints a line, and stays.
func beStrange(step string) {
	step, rest, _ := strings.Cut(step, " ")
	switch step {
	case "serve": // PATH REPLY
		path, reply, _ := strings.Cut(rest, " ")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			panic(err)
		}
		go ServeReply(path, reply)
		for _, err := os.Stat(path); err != nil; _, err = os.Stat(path) {
			time.Sleep(2 * time.Millisecond)
		}
	case "lock", "read": // FILE…: so that nobody else has the lock, or can write it
		for _, path := range strings.Fields(rest) {
			fd, err := unix.Open(path, unix.O_RDONLY, 0)
			if err == nil && step == "lock" {
				err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
			}
			if err != nil {
				panic(fmt.Sprint(path, ": ", err))
			}
			read := unix.Flock_t{Type: unix.F_RDLCK}
			unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &read)
		}
	}
	fmt.Println("done")
	time.Sleep(time.Hour)
}

// ServeReply answers whatever is asked on a unix socket with one line.
func ServeReply(path, reply string) {
	ln, err := net.Listen("unix", path)
	if err != nil {
		panic(err)
	}
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(nc, reply)
		nc.Close()
	}
}

// refusePidfd makes pidfd_open and pidfd_send_signal fail with ENOSYS from now on, here and in what is executed.
func refusePidfd() {
	runtime.LockOSThread()
	const offsetOfNumber = 0 // in struct seccomp_data
	refuse := uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetOfNumber},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 2, K: unix.SYS_PIDFD_OPEN},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: unix.SYS_PIDFD_SEND_SIGNAL},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_RET | unix.BPF_K, K: refuse},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0)
	}
	if err != nil {
		panic(err)
	}
}

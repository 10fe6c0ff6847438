// Package descriptors is about the file descriptors of this process: how many there are
// and may be, and which of them lead to the same pipe or socket.
package descriptors

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Room returns how many more descriptors this process may use for connections, and for
// what requests open. It keeps a reserve: a quarter of the limit (RLIMIT_NOFILE), 128 at
// most. Connections leave another quarter, 1024 at most, to requests. Both may be
// negative.
func Room() (connections, requests int) {
	var rlimit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rlimit); err != nil {
		return math.MaxInt32, math.MaxInt32
	}
	limit := int(min(rlimit.Cur, math.MaxInt32))
	open, err := Open("self")
	if err != nil {
		return limit, limit
	}
	requests = limit - min(limit/4, 128) - open
	return requests - min(limit/4, 1024), requests
}

// Open returns how many descriptors a process has, which is named as in /proc.
func Open(process string) (int, error) {
	directory := filepath.Join("/proc", process, "fd")
	var stat unix.Stat_t
	if err := unix.Stat(directory, &stat); err == nil && stat.Size > 0 { // since Linux 6.2 (proc(5))
		return int(stat.Size), nil
	}
	entries, err := os.ReadDir(directory)
	return len(entries), err
}

// CloseAllBut makes every descriptor that leads to a pipe or socket one of the null
// device, but for one; -1 spares none. It is for those of other packages, which go on
// to use the number.
func CloseAllBut(but int, inode uint64) error {
	null, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	size, err := descriptorTable()
	if err != nil {
		return err
	}
	found := false
	for fd := range size {
		if fd == but || Inode(fd) != inode {
			continue
		}
		found = true
		if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no descriptor leads to inode %d", inode)
	}
	return nil
}

// Inode returns the inode of a pipe or socket, or 0 if a descriptor is something else.
func Inode(fd int) uint64 {
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) != nil {
		return 0
	}
	if kind := stat.Mode & unix.S_IFMT; kind != unix.S_IFIFO && kind != unix.S_IFSOCK {
		return 0
	}
	return stat.Ino
}

// descriptorTable returns a number above that of each descriptor. To ask about each
// number below costs less than to list the descriptors, if there are many.
func descriptorTable() (size int, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "FDSize:")
	if _, err := fmt.Sscan(rest, &size); err != nil {
		return 0, fmt.Errorf("read the size of the descriptor table: %w", err)
	}
	return size, nil
}

// Duplicate returns another descriptor for what c leads to, close-on-exec.
func Duplicate(c any) (fd int, err error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("a %T has no descriptor", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	if ctlErr := raw.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) }); ctlErr != nil {
		return 0, ctlErr
	}
	return fd, os.NewSyscallError("fcntl", err)
}

// Number returns the descriptor of a file. os.File.Fd would switch the open file
// description, which other processes may share, to blocking mode.
func Number(f *os.File) (fd int) {
	if raw, err := f.SyscallConn(); err == nil {
		raw.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Footprint is what a process holds of the machine.
type Footprint struct {
	Descriptors, Threads, Children, Environment, Resident int // resident in KiB
}

func FootprintOf(t *testing.T, pid int) (f Footprint) {
	t.Helper()
	number := func(field string) int {
		n, err := strconv.Atoi(strings.TrimSuffix(ProcStatus(t, pid, field), " kB"))
		if err != nil {
			t.Fatalf("%s of %d: %v", field, pid, err)
		}
		return n
	}
	f.Threads, f.Resident = number("Threads"), number("VmRSS")
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	f.Descriptors = len(fds)
	f.Children = len(Children(pid))
	environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	f.Environment = len(environ)
	return f
}

// ListeningAt returns the IPv4 addresses that a process listens on, in order.
func ListeningAt(t *testing.T, pid int) (addresses []string) {
	t.Helper()
	for _, local := range sockets(t, pid, "tcp", "0A") {
		ip, port, _ := strings.Cut(local, ":")
		a, err1 := strconv.ParseUint(ip, 16, 32)
		p, err2 := strconv.ParseUint(port, 16, 16)
		if err1 != nil || err2 != nil {
			t.Fatalf("/proc/net/tcp: address %s", local)
		}
		addresses = append(addresses, fmt.Sprintf("%d.%d.%d.%d:%d", byte(a), byte(a>>8), byte(a>>16), byte(a>>24), p))
	}
	slices.Sort(addresses)
	return addresses
}

// Connections returns what tells the established TCP connections of a process apart: the address of its end, as the
// kernel writes it.
func Connections(t *testing.T, pid int) []string {
	t.Helper()
	const established = "01"
	return append(sockets(t, pid, "tcp", established), sockets(t, pid, "tcp6", established)...)
}

// sockets returns the local addresses of a process's sockets in a state, as a table of the kernel has them.
func sockets(t *testing.T, pid int, table, state string) (local []string) {
	t.Helper()
	inodes := make(map[string]bool)
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	lines, err := os.ReadFile("/proc/net/" + table)
	if errors.Is(err, fs.ErrNotExist) && table == "tcp6" { // a kernel without IPv6
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		if f := strings.Fields(line); len(f) > 9 && f[3] == state && inodes[f[9]] {
			local = append(local, f[1])
		}
	}
	slices.Sort(local)
	return slices.Compact(local) // the kernel may list one twice while it lists them
}

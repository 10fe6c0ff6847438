package process

import (
	"bufio"
	"fmt"
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
	inodes := make(map[string]bool)
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		const listen = "0A"
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != listen || !inodes[f[9]] {
			continue
		}
		ip, port, _ := strings.Cut(f[1], ":")
		a, err1 := strconv.ParseUint(ip, 16, 32)
		p, err2 := strconv.ParseUint(port, 16, 16)
		if err1 != nil || err2 != nil {
			t.Fatalf("/proc/net/tcp: %s", lines.Text())
		}
		addresses = append(addresses, fmt.Sprintf("%d.%d.%d.%d:%d", byte(a), byte(a>>8), byte(a>>16), byte(a>>24), p))
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

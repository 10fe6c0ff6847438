package process

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"example.com/baton/upgrade/internal/descriptors"
)

// Usage is what a process has of what there is only so much of.
type Usage struct {
	Descriptors uint64 // open
	Memory      uint64 // bytes, without files and what is shared: RssAnon of proc(5)
}

// UsageOf returns that of the process with a pid. It fails if /proc does not show the process.
func UsageOf(pid int) (u Usage, err error) {
	open, err := descriptors.Open(strconv.Itoa(pid))
	if err != nil {
		return Usage{}, err
	}
	kilobytes, err := field(fmt.Sprintf("/proc/%d/status", pid), "RssAnon:")
	return Usage{Descriptors: uint64(open), Memory: kilobytes << 10}, err
}

// MemoryLeft returns how many bytes this process and others can still have, as far as the machine
// and its cgroups (version 2) say: they count files that are cached as if nobody needed them.
func MemoryLeft() (bytes uint64, err error) {
	available, err := field("/proc/meminfo", "MemAvailable:")
	if err != nil {
		return 0, err
	}
	bytes = available << 10
	if groups, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		for line := range strings.Lines(string(groups)) {
			if group, unified := strings.CutPrefix(strings.TrimSpace(line), "0::"); unified {
				bytes = min(bytes, leftInGroup("/sys/fs/cgroup", group))
			}
		}
	}
	return bytes, nil
}

// leftInGroup returns what the limits of a cgroup and those above it leave.
func leftInGroup(root, group string) uint64 {
	left := uint64(math.MaxUint64)
	for ; group != "/" && group != "."; group = path.Dir(group) {
		dir := path.Join(root, group)
		limit, err := number(dir + "/memory.max")
		if err != nil {
			continue // there is none
		}
		used, err := number(dir + "/memory.current")
		cached, _ := field(dir+"/memory.stat", "file")
		if err == nil {
			used -= min(used, cached)
			left = min(left, limit-min(limit, used))
		}
	}
	return left
}

// number returns the number that a file consists of.
func number(file string) (uint64, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(content)), 10, 64)
}

// field returns the number behind a name at the beginning of a line.
func field(file, name string) (uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == name {
			return strconv.ParseUint(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no field %q", file, name)
}

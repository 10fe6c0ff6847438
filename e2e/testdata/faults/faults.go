// Package main is a file that tests add to Baton's: a release of which the version names its fault.
package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dies-after-TIME: the process is killed that long after it is ready, which the PID file of baton.service tells.
func init() {
	delay, ok := strings.CutPrefix(version, "dies-after-")
	if !ok || len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "-") {
		return
	}
	after, err := time.ParseDuration(delay)
	if err != nil {
		panic(err)
	}
	go func() {
		for own := strconv.Itoa(os.Getpid()); ; time.Sleep(10 * time.Millisecond) {
			if pid, _ := os.ReadFile("/run/baton/baton.pid"); strings.TrimSpace(string(pid)) == own {
				break
			}
		}
		time.Sleep(after)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}()
}

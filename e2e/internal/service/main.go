package service

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/impostor"
	"example.com/baton/e2e/internal/process"
)

// Main runs the tests of a package, and then what ends what they share: what each TestMain of e2e calls.
func Main(m *testing.M, ends ...func()) {
	impostor.Impersonate()
	if build.Race {
		os.Setenv("GORACE", "atexit_sleep_ms=0") // what is started reports a race at once, and need not wait for that when it exits
	}
	// Most tests wait most of the time; those that measure a load do not run in parallel with others.
	parallel := 12
	if build.Race {
		parallel = 4
	}
	flag.Set("test.parallel", strconv.Itoa(parallel))
	flag.Parse()
	heedInterrupts()
	await.AtStart()
	// A generation is the child of its predecessor, which exits. With this the orphans become children
	// of the test, so that it learns how they exit, and no zombie outlives them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become subreaper:", err)
		os.Exit(1)
	}
	if f := flag.Lookup("test.fuzzworker"); f != nil && f.Value.String() == "true" {
		keepPipes()
	}
	code := m.Run()
	for _, end := range ends {
		end()
	}
	endStrays()
	os.Exit(code)
}

// heedInterrupts has SIGINT end what is started. A shell that runs the tests in the background has it ignored, which
// would be inherited, and no script could trap it.
func heedInterrupts() {
	if signal.Ignored(os.Interrupt) {
		signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	}
}

// keepPipes keeps the pipes of a fuzz worker from what it starts. It is given them as descriptors 3 to 5, and they
// are inherited unless it says otherwise; the process that coordinates the workers waits until nobody has them any
// more, which a service that outlives its worker would delay for ever.
func keepPipes() {
	for fd := 3; fd <= 5; fd++ {
		unix.CloseOnExec(fd)
	}
}

// endStrays kills what is left of the services when the tests are over. A fuzz worker that is killed leaves all of
// its own, and they become children of the process that coordinates the workers.
func endStrays() {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		// The children of those that are killed become ours in turn.
		for _, pid := range process.Children(os.Getpid()) {
			unix.Kill(pid, unix.SIGKILL)
		}
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case errors.Is(err, unix.ECHILD):
			return
		case pid == 0:
			time.Sleep(5 * time.Millisecond)
		}
	}
}

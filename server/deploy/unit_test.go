package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseUnit(t *testing.T) {
	t.Parallel()
	got := parseUnit("baton.service", `LoadState=loaded
ActiveState=active
SubState=running
MainPID=42
Job=7
CanReload=yes
InactiveExitTimestampMonotonic=1500000
ActiveEnterTimestampMonotonic=2000000
ActiveExitTimestampMonotonic=2500000
ExecMainStartTimestampMonotonic=3000000
ExecStart={ path=/opt/a b/baton ; argv[]=/opt/a b/baton -x=y ; ignore_errors=no ; start_time=[n/a] ; pid=0 }
`)
	want := unit{"baton.service", "loaded", "active", "running", 42, "7", true, "/opt/a b/baton", "/opt/a b/baton -x=y", 1500 * time.Millisecond, 2 * time.Second, 2500 * time.Millisecond, 3 * time.Second}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := parseUnit("x", "MainPID=\nCanReload=no\n"); got.PID != 0 || got.CanReload || got.Program != "" {
		t.Errorf("without anything: got %+v", got)
	}
}

func TestUnitStates(t *testing.T) {
	t.Parallel()
	tests := []struct {
		active, sub             string
		alive, down, isChanging bool
	}{
		{"active", "running", true, false, false},
		{"reloading", "reload", true, false, true},
		{"activating", "start", false, false, true},
		{"activating", "auto-restart", false, false, false},
		{"activating", "auto-restart-queued", false, false, false},
		{"deactivating", "stop-sigterm", false, false, true},
		{"inactive", "dead", false, true, false},
		{"failed", "failed", false, true, false},
	}
	for _, tt := range tests {
		u := unit{Active: tt.active, Sub: tt.sub}
		if u.isAlive() != tt.alive || u.isDown() != tt.down || u.isChanging() != tt.isChanging {
			t.Errorf("%s (%s): got alive %v, down %v, changing %v", tt.active, tt.sub, u.isAlive(), u.isDown(), u.isChanging())
		}
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	dir := resolved(t, t.TempDir())
	real, link := filepath.Join(dir, "real baton"), filepath.Join(dir, "baton")
	write(t, real, "")
	if err := os.Symlink("real baton", link); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	tests := []struct {
		name              string
		program, argument string
		started           string // "" if the service is not alive
		want, problem     string
	}{
		{name: "stopped", program: real, want: real},
		{name: "symlink", program: link, started: link, want: real},
		{name: "behind another program", program: "/usr/bin/env", argument: "/usr/bin/env X=1 " + link + " -listen :80", started: link, want: real},
		{name: "relative name", program: link, started: "baton", want: real},
		{name: "another program", program: real, argument: real, started: link, problem: "is configured to run " + real + ", but the running process was started as " + link},
		{name: "missing", program: missing, started: missing, problem: missing + ", which x.service runs, does not exist; put a binary in its place, as with: cp /proc/7/exe " + missing},
		{name: "missing and stopped", program: missing, problem: "put a binary in its place"},
		{name: "directory", program: dir, problem: "does not exist"},
	}
	for _, tt := range tests {
		var p *process
		if tt.started != "" {
			p = &process{PID: 7, Arguments: []string{tt.started}}
		}
		got, err := unit{Name: "x.service", Program: tt.program, Arguments: tt.argument}.target(p)
		if got != tt.want || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%s: got %q, %v, want %q, %s", tt.name, got, err, tt.want, tt.problem)
		}
	}
}

func TestRunning(t *testing.T) {
	t.Parallel()
	good := unit{Name: "x.service", Load: "loaded", Active: "active", PID: os.Getpid(), CanReload: true}
	with := func(change func(*unit)) unit {
		u := good
		change(&u)
		return u
	}
	tests := []struct {
		unit unit
		want string
	}{
		{with(func(u *unit) { u.Load = "not-found" }), "there is no x.service: systemd says it is not-found"},
		{with(func(u *unit) { u.Load = "" }), "systemd says it is unknown"},
		{with(func(u *unit) { u.PID = 0 }), "x.service has no main process"},
		{with(func(u *unit) { u.PID = 1 << 30 }), fmt.Sprintf("cannot read the environment of pid %d", 1<<30)},
		{with(func(u *unit) { u.CanReload = false }), "x.service has no ExecReload="},
	}
	for _, tt := range tests {
		if _, err := tt.unit.running(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %s", tt.unit, err, tt.want)
		}
	}
	if p, err := good.running(); err != nil || p.PID != os.Getpid() {
		t.Errorf("got %+v, %v, want this process", p, err)
	}
	if p, err := with(func(u *unit) { u.Active = "failed" }).running(); p != nil || err != nil {
		t.Errorf("failed: got %v, %v, want no process", p, err)
	}
}

func write(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// script writes a program into a directory of its own.
func script(t testing.TB, content string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "script"), "#!/bin/sh\n"+content+"\n")
}

func resolved(t testing.TB, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

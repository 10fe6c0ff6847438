package upgrade

import (
	"os"
	"path/filepath"
	"testing"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
)

// Deployments: however the new binary takes its place, and from wherever the service was started,
// the upgrade runs the new one.

func TestDeploy(t *testing.T) {
	t.Parallel()
	// A service whose binary is DIR/current/baton, current being a symlink into DIR/releases.
	releases := func(t *testing.T, b *service.Baton) {
		t.Helper()
		for _, v := range []string{"v1", "v2"} {
			dir := filepath.Join(b.Dir, "releases", v)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			files.Install(t, build.Version(t, v), filepath.Join(dir, "baton"))
		}
		if err := os.Symlink("releases/v1", filepath.Join(b.Dir, "current")); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(t *testing.T, b *service.Baton) {
		t.Helper()
		next := filepath.Join(b.Dir, "next")
		if err := os.Symlink("releases/v2", next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(b.Dir, "current")); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(_ *testing.T, b *service.Baton) { b.Deploy("v2") }
	nothing := func(*testing.T, *service.Baton) {}
	elsewhere := t.TempDir()

	tests := []struct {
		name    string
		options []service.Option
		prepare func(*testing.T, *service.Baton)
		deploy  func(*testing.T, *service.Baton)
	}{
		{"rename", nil, nothing, rename},
		{"symlink swap", []service.Option{service.Launched("DIR", "DIR/current/baton", "DIR/current/baton")}, releases, swap},
		{"symlink swap, relative path", []service.Option{service.Launched("DIR", "current/baton", "current/baton")}, releases, swap},
		{"relative path", []service.Option{service.Launched("DIR", "./baton", "./baton")}, nothing, rename},
		{"relative path from another directory", []service.Option{service.Launched("DIR/releases/v1", "../../baton", "../../baton")}, releases, rename},
		{"by name in PATH", []service.Option{service.Launched(elsewhere, "DIR/baton", "baton"), service.Env("PATH=DIR:/usr/bin:/bin")}, nothing, rename},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := service.Prepare(t, append(tt.options, service.Files(t), service.Args("-idle-grace", "100ms"))...)
			tt.prepare(t, b)
			b.Launch()
			b.AwaitReady()
			if got := b.Status().Version; got != "v1" {
				t.Fatalf("version at the start: got %s, want v1", got)
			}
			tt.deploy(t, b)
			// Twice: what the successor was given has to serve its own successor as well.
			for n := 2; n <= 3; n++ {
				if u := b.Upgrade(); u.Version != "v2" || u.Generation != n {
					t.Errorf("upgrade: got version %s, generation %d, want v2, %d", u.Version, u.Generation, n)
				}
			}
			service.CheckServes(t, b, 3, b.PID())
		})
	}
}

// The configuration is that of today, the flags and the environment those of the launch.
func TestSuccessorSettings(t *testing.T) {
	t.Parallel()
	first, second := t.TempDir(), t.TempDir()
	for dir, content := range map[string]string{first: "first", second: "second"} {
		if err := os.WriteFile(filepath.Join(dir, "which"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := service.Start(t, service.Config("root "+first, "drain-timeout 9s"), service.Env("BATON_IDLE_GRACE=100ms", "BATON_MIGRATE=false"), service.Args("-drain-timeout", "300ms"))
	which := func() string { return string(b.Get("/which").Body) }
	if got := which(); got != "first" {
		t.Fatalf("root at the start: got %q, want first", got)
	}
	b.Configure("root " + second + "\ndrain-timeout 9s\n")
	if got := which(); got != "first" {
		t.Errorf("root before the upgrade: got %q, want first", got)
	}
	idle := b.Dial()
	u := b.Upgrade()
	if got := which(); got != "second" {
		t.Errorf("root after the upgrade: got %q, want second", got)
	}
	if u.Predecessor.Connections.Grace != 1 || u.Predecessor.DrainSeconds > 8 {
		t.Errorf("drain with a grace of 100 ms from the environment: got %+v", u.Predecessor)
	}
	idle.AwaitClose(0)
	u = b.Upgrade()
	if u.Predecessor.DrainSeconds > 8 {
		t.Errorf("drain of the second generation: got %v s, want the environment of the launch to hold", u.Predecessor.DrainSeconds)
	}
}

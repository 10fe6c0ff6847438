// Deployments: however the new binary takes its place, and from wherever the service was started,
// the upgrade runs the new one.
package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDeploy(t *testing.T) {
	// A service whose binary is DIR/current/baton, current being a symlink into DIR/releases.
	releases := func(t *testing.T, b *Baton) {
		t.Helper()
		for _, v := range []string{"v1", "v2"} {
			dir := filepath.Join(b.Dir, "releases", v)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			install(t, built(t, v), filepath.Join(dir, "baton"))
		}
		if err := os.Symlink("releases/v1", filepath.Join(b.Dir, "current")); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(t *testing.T, b *Baton) {
		t.Helper()
		next := filepath.Join(b.Dir, "next")
		if err := os.Symlink("releases/v2", next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(b.Dir, "current")); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(_ *testing.T, b *Baton) { b.Deploy("v2") }
	nothing := func(*testing.T, *Baton) {}
	elsewhere := t.TempDir()

	tests := []struct {
		name    string
		options []option
		prepare func(*testing.T, *Baton)
		deploy  func(*testing.T, *Baton)
	}{
		{"rename", nil, nothing, rename},
		{"symlink swap", []option{launched("DIR", "DIR/current/baton", "DIR/current/baton")}, releases, swap},
		{"symlink swap, relative path", []option{launched("DIR", "current/baton", "current/baton")}, releases, swap},
		{"relative path", []option{launched("DIR", "./baton", "./baton")}, nothing, rename},
		{"relative path from another folder", []option{launched("DIR/releases/v1", "../../baton", "../../baton")}, releases, rename},
		{"by name in PATH", []option{launched(elsewhere, "DIR/baton", "baton"), env("PATH=DIR:/usr/bin:/bin")}, nothing, rename},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := prepare(t, append(tt.options, files(t), args("-idle-grace", "100ms"))...)
			tt.prepare(t, b)
			b.launch()
			b.awaitReady()
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
			checkServes(t, b, 3, b.PID())
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
	b := start(t, config("root "+first, "drain-timeout 9s"), env("BATON_IDLE_GRACE=100ms", "BATON_MIGRATE=false"), args("-drain-timeout", "300ms"))
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
	if u.Predecessor.DrainSeconds > 0.9 {
		t.Errorf("drain with a grace of 100 ms from the environment: got %v s", u.Predecessor.DrainSeconds)
	}
	idle.awaitClose(0)
	u = b.Upgrade()
	if u.Predecessor.DrainSeconds > 0.9 {
		t.Errorf("drain of the second generation: got %v s, want the environment of the launch to hold", u.Predecessor.DrainSeconds)
	}
}

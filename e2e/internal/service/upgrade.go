package service

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
)

// Deploy replaces the binary by rename, as a deployment does.
func (b *Baton) Deploy(version string) {
	b.T.Helper()
	files.Install(b.T, build.Version(b.T, version), b.Bin)
}

// Releases copies versions to the directory once, and returns a way to deploy them that is nothing but a rename.
func (b *Baton) Releases(versions ...string) (deploy func(version string)) {
	b.T.Helper()
	for _, version := range versions {
		files.Install(b.T, build.Version(b.T, version), filepath.Join(b.Dir, version))
	}
	return func(version string) {
		b.T.Helper()
		err := os.Link(filepath.Join(b.Dir, version), b.Bin+".new")
		if err == nil {
			err = os.Rename(b.Bin+".new", b.Bin)
		}
		if err != nil {
			b.T.Fatal(err)
		}
	}
}

// DeployBytes replaces the binary by a file of this content.
func (b *Baton) DeployBytes(content []byte, mode os.FileMode) {
	b.T.Helper()
	files.Put(b.T, content, b.Bin, mode)
}

// Connections counts connections of a drain by how they ended.
type Connections struct {
	Client, Announced, Grace, Cut, Timeout, Error, Hijacked int
}

// Upgraded is what `baton upgrade -json` prints, and how the command ended.
type Upgraded struct {
	Result       string
	Reason       string
	Stderr       []string
	Generation   int
	PID          int
	Version      string
	ReadySeconds float64 `json:"ready_seconds"`
	Predecessor  struct {
		Generation       int
		PID              int
		Drained          bool
		DrainSeconds     float64 `json:"drain_seconds"`
		RequestsFinished int     `json:"requests_finished"`
		Moved            int     `json:"connections_moved"`
		Connections      Connections
	}

	Code            int       `json:"-"`
	Stdout, Errors  string    `json:"-"` // as printed
	Asked, Returned time.Time `json:"-"`
}

// Handoff is when the successor was ready, seen from outside: not before the trigger plus the time that the service reports.
func (u *Upgraded) Handoff() time.Time {
	return u.Asked.Add(time.Duration(u.ReadySeconds * float64(time.Second)))
}

// TryUpgrade asks for an upgrade and waits for what comes of it.
func (b *Baton) TryUpgrade(flags ...string) *Upgraded {
	b.T.Helper()
	u := &Upgraded{Asked: time.Now()}
	u.Code, u.Stdout, u.Errors = b.Run(append([]string{"upgrade", "-json", "-control", b.Control}, flags...)...)
	u.Returned = time.Now()
	// There is no object to print when nobody answers, or not in time.
	if err := json.Unmarshal([]byte(u.Stdout), u); err != nil && (u.Stdout != "" || u.Code == 0) {
		b.T.Errorf("baton upgrade -json: exit code %d, stdout %q is no object (%v), stderr %q", u.Code, u.Stdout, err, u.Errors)
	}
	if u.Result == "succeeded" {
		// It may be gone already, if the test is about that.
		b.TryFollow(u.PID)
	}
	return u
}

// UpgradeMeanwhile asks for an upgrade; result waits for what comes of it.
func (b *Baton) UpgradeMeanwhile(flags ...string) (result func() *Upgraded) {
	b.T.Helper()
	build.Version(b.T, "v1") // which may fail the test, and so has to be done here
	done := make(chan *Upgraded, 1)
	go func() { done <- b.TryUpgrade(flags...) }()
	return func() *Upgraded {
		b.T.Helper()
		select {
		case u := <-done:
			return u
		case <-time.After(6 * time.Minute): // the command has five
			b.T.Fatal("upgrade: no result")
			return nil
		}
	}
}

// Upgrade upgrades, and fails the test if that does not succeed.
func (b *Baton) Upgrade(flags ...string) *Upgraded {
	b.T.Helper()
	u := b.TryUpgrade(flags...)
	if u.Code != 0 || u.Result != "succeeded" {
		b.T.Fatalf("upgrade: got exit code %d, %s %s\n%s\nlog:\n%s", u.Code, u.Stdout, u.Errors, u.Reason, Tail(WithoutRequests(b.Log()), 40))
	}
	return u
}

// UpgradeInBackground asks for an upgrade, and returns once the successor serves.
func UpgradeInBackground(t *testing.T, b *Baton) (checked func() *Upgraded) {
	t.Helper()
	next := b.Status().Generation + 1
	result := b.UpgradeMeanwhile()
	await.Until(t, "the successor", func() bool {
		s, err := b.TryStatus()
		return err == nil && s.Generation == next && s.State == "serving"
	})
	return func() *Upgraded {
		t.Helper()
		u := result()
		if u.Code != 0 {
			t.Errorf("upgrade: got exit code %d, %s %s", u.Code, u.Stdout, u.Errors)
		}
		return u
	}
}

// AwaitDrain waits until a predecessor has stopped accepting, which it says itself in its status. Its state changes a
// moment before its server drains, so that it has to be seen for a while.
func AwaitDrain(t *testing.T, b *Baton) {
	t.Helper()
	looks := 0
	await.Until(t, "the drain", func() bool {
		if slices.ContainsFunc(b.Status().Generations, func(g generation) bool { return g.State == "draining" }) {
			looks++
			time.Sleep(20 * time.Millisecond)
		}
		return looks >= 10
	})
}

// AwaitStarting waits for a successor that is there but not ready, and returns its pid.
// It is found as the child of the generation that serves: one that is held at its very start
// has not yet been able to say that it is there.
func AwaitStarting(t *testing.T, b *Baton) (pid int) {
	t.Helper()
	serving := b.PID() // it may hand over before anybody looks again
	await.Until(t, "successor that starts", func() bool {
		if all := process.Children(serving); len(all) > 0 && process.Executed(all[0]) {
			pid = all[0]
		}
		return pid != 0
	})
	b.Follow(pid)
	return pid
}

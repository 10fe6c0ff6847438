package trial

import (
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// startTried starts a service of every kind of connection that tries its successors, and its load.
func startTried(t *testing.T, canaryTime, watch string) (*service.Baton, *service.Crowd) {
	t.Helper()
	option, over := service.EveryKind(t)
	b := service.Start(t, option, service.Args("-canary", "20%", "-canary-time", canaryTime, "-watch", watch,
		"-idle-grace", "5m", "-websocket-grace", "5m", "-drain-timeout", "5m"))
	crowd := service.StartCrowd(t, b, over, service.SmallCrowd, false)
	return b, crowd
}

// checkCrowd checks that each client has the connection that it began with.
func checkCrowd(t *testing.T, b *service.Baton, crowd *service.Crowd) {
	t.Helper()
	crowd.Stop()
	t.Log(crowd)
	crowd.CheckKept(t)
	if got, want := b.Metric("baton_connections_accepted_total"), service.SmallCrowd.Clients(); int(got) != want {
		t.Errorf("connections accepted: got %v, want %d, one from each client", got, want)
	}
}

// Good releases: the clients notice nothing of their trials.
func TestGoodReleases(t *testing.T) {
	upgrades := *tier.Soak
	if upgrades == 0 {
		upgrades = tier.Times(t, "upgrades", 2, 5, 10)
	}
	b, crowd := startTried(t, "300ms", "200ms")
	deploy := b.Releases("v1", "v2")
	for i := range upgrades {
		before := crowd.Requests()
		await.Until(t, "requests of each kind", func() bool { return crowd.Advanced(before, 5) })
		deploy([]string{"v2", "v1"}[i%2])
		predecessor := b.Follow(b.PID())
		u := b.Upgrade()
		t.Logf("upgrade %d: %.1f s until it was ready, drained in %v s, %d connections migrated then", i+1, u.ReadySeconds, u.Predecessor.DrainSeconds, u.Predecessor.Moved)
		if c := u.Predecessor.Connections; !u.Predecessor.Drained || c != (service.Connections{}) {
			t.Errorf("upgrade %d: got %+v, want no connection closed", i+1, u.Predecessor)
		}
		if !predecessor.Within(await.Hang) {
			t.Fatalf("upgrade %d: predecessor alive %v after its drain", i+1, await.Hang)
		}
	}
	checkCrowd(t, b, crowd)
}

// Take-backs on request, from a trial and from a watch: the clients notice nothing of them either.
func TestTakeBacks(t *testing.T) {
	takeBacks := *tier.Soak
	if takeBacks == 0 {
		takeBacks = tier.Times(t, "take-backs", 2, 4, 10)
	}
	b, crowd := startTried(t, "10m", "10m")
	pid := b.PID()
	for i := range takeBacks {
		stage, flags := "trial", []string(nil)
		if i%2 == 1 {
			stage, flags = "watch", []string{"-canary", "0%"}
		}
		before := crowd.Requests()
		result := b.UpgradeMeanwhile(flags...)
		await.Until(t, stage, func() bool { return stageOf(b) == stage })
		await.Until(t, "requests of each kind", func() bool { return crowd.Advanced(before, 10) })
		if code, _, stderr := b.Run("abort", "-control", b.Control, "-reason", "a test"); code != 0 {
			t.Errorf("abort: got exit code %d, %s", code, stderr)
		}
		if u := result(); u.Code != 1 || u.Result != "failed" || u.Reason != stage+": aborted on request: a test" {
			t.Errorf("upgrade: got exit code %d, %s, %q", u.Code, u.Result, u.Reason)
		}
		service.CheckState(t, b, 1, pid)
	}
	if n := b.Metric("baton_connections_migrated_total", "direction", "in"); n == 0 {
		t.Error("no connection has come back")
	} else {
		t.Logf("%v connections have come back", n)
	}
	checkCrowd(t, b, crowd)
}

// stageOf returns the stage of the trial that runs, as the generation that decides reports it.
func stageOf(b *service.Baton) string {
	if s := b.Decider(); s != nil && s.Trial != nil {
		return s.Trial.Stage
	}
	return ""
}

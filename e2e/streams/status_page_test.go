package streams

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
)

func TestStatusPageInBrowser(t *testing.T) {
	t.Parallel()
	build.Version(t, "v2")
	held := backend.NewGate(t)
	b := service.Start(t, service.Proxied(t), service.Args("-proxy", "/hold/="+backend.Start(t, held), "-upgrade-timeout", "20s"))
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Echo("")}
	l.Clients[load.Pausing] = 10
	l.Clients[load.Silent] = 5
	counts, stop := load.Start(t, l)
	await.Until(t, "load", func() bool { return counts.Requests() > 10 })

	p := browse(t, "http://"+b.Admin+"/")
	is := func(want string) func(string) bool { return func(got string) bool { return got == want } }
	has := func(parts ...string) func(string) bool {
		return func(got string) bool {
			for _, part := range parts {
				if !strings.Contains(got, part) {
					return false
				}
			}
			return true
		}
	}
	p.awaitText("generation", is("1"))
	p.awaitText("about", has("version v1", "serving"))
	p.awaitText("link", is("live"))
	p.awaitText("rate", func(got string) bool { return got != "–" && got != "0" })
	p.awaitText("p99", has("ms"))
	p.awaitText("upgrades", is(""))
	p.picture("1-serving")

	// The predecessor has a request to finish.
	waiting := b.Dial()
	waiting.Send(t, string(http1.Request("GET", "/hold/it", nil)))
	held.Await(t, 1)
	b.Deploy("v2")
	upgraded := b.UpgradeMeanwhile()
	p.awaitText("generation", is("2"))
	p.awaitText("about", has("version v2", "serving"))
	p.awaitText("upgrades", has("1 → 2", "succeeded"))
	p.awaitText("rows", has("2v2", "serving", "1v1", "draining · 1 request"))
	p.awaitText("link", is("live"))
	p.picture("2-draining")
	held.Open()
	waiting.Expect(t, "GET", 200)
	if u := upgraded(); u.Code != 0 {
		t.Fatalf("upgrade: got exit code %d, %s", u.Code, u.Stdout)
	}
	p.awaitText("rows", func(got string) bool { return !strings.Contains(got, "draining") })

	// A bad one, which says so in words that a page must not take for its own.
	b.DeployBytes(files.Script(`echo '<img src=x onerror="window.injected=true"><script>window.injected=true</script> & so on' >&2; exit 1`), 0o755)
	if failed := b.TryUpgrade(); failed.Result != "failed" {
		t.Fatalf("upgrade: got %s, want failed", failed.Result)
	}
	reason := b.Status().Upgrades[1].Reason
	p.awaitText("upgrades", has("2 → 3", "failed", reason))
	if got := eval[int](p, `document.querySelectorAll("img, #upgrades script").length`); got != 0 {
		t.Errorf("%d elements came in with a reason, want none", got)
	}
	p.awaitText("generation", is("2"))

	b.Deploy("v1")
	b.Upgrade()
	p.awaitText("generation", is("3"))
	p.picture("3-after")
	stop()
	if n := counts.Failures(); n != 0 {
		t.Errorf("%d requests lost:\n%v", n, counts)
	}

	// The rate is that of the line: what was counted before an upgrade is not counted again after it.
	var points []struct{ Time, Total float64 }
	if err := json.Unmarshal([]byte(eval[string](p, `JSON.stringify(points)`)), &points); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		if rate := (b.Total - a.Total) / (b.Time - a.Time); b.Total < a.Total || rate > 10/0.02*2 {
			t.Errorf("point %d: total %v after %v, %v requests a second; want no more than what ten clients make", i, b.Total, a.Total, rate)
		}
	}
	made := fmt.Sprint(counts.Requests() + 1) // the one that was held
	p.awaitText("total", func(got string) bool { return strings.ReplaceAll(got, ",", "") == made+" in all" })
	p.check()
}

package systemd

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/tier"
)

// application is one as the comment in the unit wants it.
const application = `
const http = require('http');
const server = http.createServer((request, response) => setTimeout(() => response.end('x'.repeat(1000)), 5));
server.listen(process.env.PORT, process.env.HOST, () => require('child_process').execFile('systemd-notify', ['--ready']));
process.on('SIGTERM', () => server.close(() => process.exit()));
`

// A Node application with the unit that README recommends restarts, its two processes one after the other as well as at
// once, and Baton upgrades, and no request fails.
func TestSystemdNodeApplication(t *testing.T) {
	tier.Long(t, "restarts a Node application again and again")
	t.Parallel()
	tier.Tool(t, "node")
	u := machine.Installed(t)
	unit, err := os.ReadFile(filepath.Join(build.Root(t), "systemd", "node-app@.service"))
	if err != nil {
		t.Fatal(err)
	}
	u.Put("/etc/systemd/system/app@.service", string(unit), 0o644)
	// Other machines use the same ports, and nobody restarts as often as this.
	u.Put("/etc/systemd/system/app@.service.d/test.conf", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nEnvironment=HOST="+u.Host+"\n", 0o644)
	u.Must("systemctl", "daemon-reload")
	u.Put("/srv/app/server.js", application, 0o644)
	u.ConfigureOnly("listen "+u.Address, "admin "+u.Admin, "pid-file /run/baton/baton.pid", "proxy /=http://HOST:3001", "proxy /=http://HOST:3002", "idle-grace 20s", "proxy-wait 1m")
	u.Must("systemctl", "start", "app@3001", "app@3002")
	u.Start()

	counts, stop := load.Start(t, load.Load{Network: "tcp", Address: u.Address, Lenient: true,
		Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, bytes.Repeat([]byte("x"), 1000))},
		Clients:   [load.Habits]int{load.BackToBack: 1, load.Pausing: 4, load.PerRequest: 1},
		Patience:  2 * await.Hang}.Paced())
	for round := range 3 {
		for _, units := range [][]string{{"app@3001"}, {"app@3002"}, {"app@3001", "app@3002"}} {
			before := counts.Requests()
			u.Must(append([]string{"systemctl", "restart"}, units...)...)
			u.Await(t, "answers after the restart", func() bool { return counts.Requests() > before+20 })
		}
		u.Reload()
		u.CheckServes(t, round+2, "v1")
	}
	stop()
	t.Log(counts)
	if counts.Failures() != 0 {
		t.Errorf("%d requests lost, want none", counts.Failures())
	}
	load.CheckAnswered(t, counts)
	for _, app := range []string{"app@3001", "app@3002"} {
		if n := u.Show(app, "NRestarts"); n != "0" {
			t.Errorf("%s: systemd has restarted it %s times on its own account\n%s", app, n, u.Journal(app))
		}
	}
}

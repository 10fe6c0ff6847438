package settings_test

import (
	"strings"
	"testing"
	"time"

	"example.com/baton/server/settings"
	"example.com/baton/upgrade"
	"github.com/google/go-cmp/cmp"
)

func TestClients(t *testing.T) {
	file := write(t, "control /from-file\nlisten :1\nnosuch x\ncanary 5%\nwatch 1m\nreason x\n")
	with := func(change func(*settings.Client)) settings.Client {
		c := settings.Client{Control: "/default/control.sock", Timeout: 5 * time.Second}
		change(&c)
		return c
	}
	share, second, none := .1, time.Second, time.Duration(0)
	for _, tt := range []struct {
		name string
		read func(settings.Input) (settings.Client, error)
		args string
		want settings.Client
		err  string
	}{
		{"status", settings.ReadStatus, "", with(func(c *settings.Client) {}), ""},
		{"flags", settings.ReadStatus, "-control /c -timeout 2s -json", settings.Client{Control: "/c", Timeout: 2 * time.Second, JSON: true}, ""},
		{"the server's file", settings.ReadStatus, "-config " + file, with(func(c *settings.Client) { c.Control = "/from-file" }), ""},
		{"no time", settings.ReadStatus, "-timeout 0", settings.Client{}, "-timeout 0s: want more than 0"},
		{"no path", settings.ReadStatus, "-control=", settings.Client{}, "-control is empty"},
		{"no such flag", settings.ReadStatus, "-listen :1", settings.Client{}, "unknown flag -listen"},
		{"status of a trial", settings.ReadStatus, "-canary 10%", settings.Client{}, "unknown flag -canary"},

		{"upgrade", settings.ReadUpgrade, "-json", with(func(c *settings.Client) { c.Timeout, c.JSON = 3*time.Minute, true }), ""},
		// What the server's file and the environment say of trials is for the server.
		{"upgrade with the server's file", settings.ReadUpgrade, "-config " + file, with(func(c *settings.Client) {
			c.Control, c.Timeout = "/from-file", 3*time.Minute
		}), ""},
		{"upgrade with a trial", settings.ReadUpgrade, "-canary 10% -canary-time 1s -watch 0", with(func(c *settings.Client) {
			c.Timeout, c.Overrides = 181*time.Second, upgrade.Overrides{Share: &share, Time: &second, Watch: &none}
		}), ""},
		{"upgrade with a watch and a timeout", settings.ReadUpgrade, "-timeout 3m -watch 1s", with(func(c *settings.Client) {
			c.Timeout, c.Overrides = 3*time.Minute, upgrade.Overrides{Watch: &second}
		}), ""},
		{"upgrade with too much", settings.ReadUpgrade, "-canary 110%", settings.Client{}, `"110%" is not a share such as 10% or 0.1, of 100% at most`},
		{"upgrade with a trial that takes no time", settings.ReadUpgrade, "-canary-time 0", settings.Client{}, "0s is too short; want 1ms or more"},

		{"promote", settings.ReadPromote, "", with(func(c *settings.Client) {}), ""},
		{"promote with a reason", settings.ReadPromote, "-reason x", settings.Client{}, "unknown flag -reason"},
		{"abort", settings.ReadAbort, "-config " + file, with(func(c *settings.Client) { c.Control = "/from-file" }), ""},
		{"abort with a reason", settings.ReadAbort, "-reason=bad", with(func(c *settings.Client) { c.Reason = "bad" }), ""},
		{"abort with a reason that is no flag", settings.ReadAbort, "bad", settings.Client{}, `unexpected argument "bad"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.read(settings.Input{Args: strings.Fields(tt.args), Root: "/nosuch",
				Environ: []string{"RUNTIME_DIRECTORY=/default:/x", "BATON_CANARY=20%", "BATON_WATCH=1h", "BATON_REASON=x"}})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

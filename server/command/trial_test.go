package command_test

import (
	"encoding/json"
	"strings"
	"testing"

	"example.com/baton/server/command"
	"example.com/baton/upgrade"
)

func TestUpgradeWithATrial(t *testing.T) {
	control := fakeServerOf(t, `{"command":"upgrade-with","overrides":{"share":0.1,"time":1500000000,"watch":0}}`,
		`{"progress":"trial: 10 % of connections, 312 requests, 0 failed (0.0 %); here 2,810, 3 failed (0.1 %); 12 s left"}`,
		`{"final":true,"outcome":{"result":"failed","generation":1,"pid":10,"version":"v1","reason":"bad: 7 of 7 requests failed"}}`)
	call(t, func(c *command.Call) { c.Width = 30 }, "upgrade", "-canary", "10%", "-canary-time", "1.5s", "-watch", "0", "-control", control).check(t, command.Failed, "",
		"\r\033[Ktrial: 10 % of connections, 3\r\033[Kbaton: upgrade failed: bad: 7 of 7 requests failed\ngeneration 1 (pid 10, version v1) goes on serving\n")
	r := call(t, nil, "upgrade", "-canary", "110%", "-control", control)
	if r.code != command.BadUsage || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, `"110%" is not a share such as 10% or 0.1, of 100% at most`) {
		t.Errorf("too large a share: got exit code %d, %q, want %d and one line", r.code, r.stderr, command.BadUsage)
	}
}

// A server that knows no trials does not upgrade without one.
func TestUpgradeWithATrialOfAnOldServer(t *testing.T) {
	control := fakeServerOf(t, `{"command":"upgrade-with","overrides":{"share":0.1}}`, `{"final":true,"error":"unknown command \"upgrade-with\"; want upgrade or status"}`)
	call(t, nil, "upgrade", "-canary", "10%", "-control", control).check(t, command.NotPossible, "",
		"baton: the server refuses: unknown command \"upgrade-with\"; want upgrade or status\n")
}

func TestVerdicts(t *testing.T) {
	const done, refused = `{"final":true}`, `{"final":true,"error":"no trial is under way"}`
	for _, tt := range []struct {
		name, args, request, reply string
		code                       int
		stdout, stderr             string
	}{
		{"promote", "promote", `{"command":"promote"}`, done, command.Done, "promoted; baton status shows what comes of it\n", ""},
		{"promote without a trial", "promote", `{"command":"promote"}`, refused, command.NotPossible, "", "baton: the server refuses: no trial is under way\n"},
		{"abort", "abort", `{"command":"abort"}`, done, command.Done, "aborted: the predecessor takes back\n", ""},
		{"abort with a reason", "abort -reason slow", `{"command":"abort","reason":"slow"}`, done, command.Done, "aborted: the predecessor takes back\n", ""},
		{"abort without a trial", "abort", `{"command":"abort"}`, refused, command.NotPossible, "", "baton: the server refuses: no trial is under way\n"},
		{"abort, lost", "abort", `{"command":"abort"}`, "", command.Failed, "", "baton: the server ended before it answered\n"},
		{"promote, malformed", "promote", `{"command":"promote"}`, `{}`, command.Failed, "", "baton: the server ended before it answered: its reply is malformed: it is not final\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append(strings.Fields(tt.args), "-control", fakeServerOf(t, tt.request, tt.reply))
			call(t, nil, args...).check(t, tt.code, tt.stdout, tt.stderr)
		})
	}
	call(t, nil, "abort", "slow").check(t, command.BadUsage, "", "baton: unexpected argument \"slow\"\n")
	call(t, nil, "promote", "-json").check(t, command.BadUsage, "", "baton: unknown flag -json; baton -h lists them\n")
}

func TestStatusOfATrial(t *testing.T) {
	reply := `{"final":true,"status":{"generation":1,"generations":[],"upgrades":[],"trial":{"share":0.1,"ends":"2026-05-01T10:00:00Z","from":1,"to":2,` +
		`"successor":{"ended":7,"failed":7},"serving":{"ended":63},"verdict":"bad","reason":"7 of 7 requests failed"}}}`
	r := call(t, nil, "status", "-control", fakeServer(t, "status", reply))
	for _, want := range []string{"TRIAL        GENERATION  REQUESTS  FAILED", "successor    2           7         7 (100.0 %)", "predecessor  1           63        0", ": bad; 7 of 7 requests failed\n"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("got %s, want %q in it", r.stdout, want)
		}
	}
	r = call(t, nil, "status", "-json", "-control", fakeServer(t, "status", reply))
	var got upgrade.Status
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || got.Trial == nil || got.Trial.Successor.Failed != 7 || got.Trial.Verdict != upgrade.VerdictBad {
		t.Errorf("got %v, %s", err, r.stdout)
	}
}

package command_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/baton/server/command"
	"example.com/baton/server/settings"
	"example.com/baton/upgrade"
)

// fakeServer answers a command on a control socket with fixed lines that are not empty, and
// returns its path.
func fakeServer(t *testing.T, wantCommand string, lines ...string) (control string) {
	t.Helper()
	return fakeServerOf(t, fmt.Sprintf(`{"command":%q}`, wantCommand), lines...)
}

// fakeServerOf is fakeServer for a request.
func fakeServerOf(t *testing.T, wantRequest string, lines ...string) (control string) {
	t.Helper()
	control = filepath.Join(t.TempDir(), "control.sock")
	ln, err := net.Listen("unix", control)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			request, _ := bufio.NewReader(nc).ReadString('\n')
			if want := wantRequest + "\n"; request != want {
				t.Errorf("request: got %q, want %q", request, want)
			}
			for _, line := range lines {
				if line != "" {
					fmt.Fprintln(nc, line)
				}
			}
			nc.Close()
		}
	}()
	return control
}

// result is what came of a call.
type result struct {
	code           int
	stdout, stderr string
}

// call calls the program with arguments, as a user of whom nothing runs here.
func call(t *testing.T, change func(*command.Call), args ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	c := &command.Call{
		Input:  settings.Input{Args: args, Environ: []string{"TMPDIR=" + t.TempDir()}, UID: 7, Root: "/nosuch"},
		Build:  command.Build{Version: "1.4.0", Revision: "abc"},
		Stdout: &stdout, Stderr: &stderr,
	}
	if change != nil {
		change(c)
	}
	name := command.Name(args)
	c.Input.Args = args[1:]
	code := c.Run(name)
	return result{code, stdout.String(), stderr.String()}
}

func (r result) check(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if r.code != code || r.stdout != stdout || r.stderr != stderr {
		t.Errorf("got exit code %d, stdout\n%s\nstderr\n%q\nwant %d,\n%s\n%q", r.code, r.stdout, r.stderr, code, stdout, stderr)
	}
}

const succeeded = `{"final":true,"outcome":{"result":"succeeded","generation":2,"pid":20,"version":"v2","ready_seconds":0.041}}`

func TestUpgrade(t *testing.T) {
	for _, tt := range []struct {
		name           string
		reply          string
		code           int
		stdout, stderr string
	}{
		{"succeeded", succeeded, command.Done, "generation 2 (pid 20, version v2) serves after 41 ms\n", ""},
		{
			"failed", `{"final":true,"outcome":{"result":"failed","generation":1,"pid":10,"version":"v1","reason":"it exited","stderr":["one","two"]}}`,
			command.Failed, "", "baton: upgrade failed: it exited\n  | one\n  | two\ngeneration 1 (pid 10, version v1) goes on serving\n",
		},
		{
			"refused", `{"final":true,"outcome":{"result":"refused","reason":"the service stops"}}`,
			command.NotPossible, "", "baton: upgrade refused: the service stops\n",
		},
		{"not allowed", `{"error":"not for you"}`, command.NotPossible, "", "baton: the server refuses: not for you\n"},
		{"lost", "", command.Failed, "", "baton: the server ended before it answered\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			control := fakeServer(t, "upgrade", tt.reply)
			call(t, nil, "upgrade", "-control", control).check(t, tt.code, tt.stdout, tt.stderr)
		})
	}
}

func TestUpgradeJSON(t *testing.T) {
	for _, tt := range []struct {
		name, reply string
		want        upgrade.Outcome
		code        int
		stderr      string
	}{
		{"succeeded", succeeded, upgrade.Outcome{Result: upgrade.Succeeded, Generation: 2, PID: 20, Version: "v2", ReadySeconds: .041}, command.Done, ""},
		{"failed", `{"final":true,"outcome":{"result":"failed","reason":"it exited"}}`, upgrade.Outcome{Result: upgrade.Failed, Reason: "it exited"}, command.Failed, ""},
		{"lost", "", upgrade.Outcome{Result: upgrade.Unknown, Reason: "the server ended before it answered"}, command.Failed, "baton: the server ended before it answered\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := call(t, nil, "upgrade", "-json", "-control", fakeServer(t, "upgrade", tt.reply))
			var got upgrade.Outcome
			if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
				t.Fatalf("%v in %s", err, r.stdout)
			}
			if r.code != tt.code || fmt.Sprint(got) != fmt.Sprint(tt.want) || r.stderr != tt.stderr {
				t.Errorf("got exit code %d, %+v, %q, want %d, %+v, %q", r.code, got, r.stderr, tt.code, tt.want, tt.stderr)
			}
		})
	}
}

// On a terminal the line of the progress is replaced by the next one, and never wraps.
func TestUpgradeProgress(t *testing.T) {
	control := fakeServer(t, "upgrade", `{"progress":"the successor starts"}`, `{"progress":"drains"}`, succeeded)
	r := call(t, func(c *command.Call) { c.Width = 11 }, "upgrade", "-control", control)
	r.check(t, command.Done, "generation 2 (pid 20, version v2) serves after 41 ms\n", "\r\033[Kthe succes\r\033[Kdrains\r\033[K")
}

func TestStatus(t *testing.T) {
	reply := `{"final":true,"status":{"generation":3,"pid":30,"version":"v3","state":"serving","listen":[":80"],"generations":[{"generation":3,"pid":30,"version":"v3","state":"serving","age_seconds":2}],"upgrades":[]}}`
	call(t, nil, "status", "-control", fakeServer(t, "status", reply)).check(t, command.Done,
		"GENERATION  PID  VERSION  STATE    AGE     REQUESTS  NEW  ACTIVE  IDLE  HIJACKED\n"+
			"3           30   v3       serving  2.00 s  0         0    0       0     0\n", "")
	r := call(t, nil, "status", "-json", "-control", fakeServer(t, "status", reply))
	var got upgrade.Status
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || got.Generation != 3 || r.code != command.Done {
		t.Errorf("got exit code %d, %v, %s", r.code, err, r.stdout)
	}
}

func TestClientsWithoutAnAnswer(t *testing.T) {
	hangs, err := net.Listen("unix", filepath.Join(t.TempDir(), "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	for _, name := range []string{"upgrade", "promote", "abort", "status"} {
		t.Run(name, func(t *testing.T) {
			call(t, nil, name, "-control", "/nosuch/control.sock").check(t, command.NoServer, "",
				"baton: no server answers on the control socket /nosuch/control.sock; is it running, and is this its -control path?\n")
			if r := call(t, nil, name, "-timeout", "1ms", "-control", hangs.Addr().String()); r.code != command.NotPossible {
				t.Errorf("a server that hangs: got exit code %d, %s, want %d", r.code, r.stderr, command.NotPossible)
			}
			if r := call(t, nil, name, "-timeout", "0"); r.code != command.BadUsage || r.stderr != "baton: -timeout 0s: want more than 0\n" {
				t.Errorf("no time: got exit code %d, %q, want %d", r.code, r.stderr, command.BadUsage)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	running := `{"final":true,"status":{"listen":["127.0.0.1:81"]}}`
	t.Run("good", func(t *testing.T) {
		call(t, nil, "check", "-listen", ":81,unix:/x", "-admin", "").check(t, command.Done, "the configuration is valid: it listens on :81, unix:/x\n", "")
	})
	t.Run("a trial that makes no sense", func(t *testing.T) {
		call(t, nil, "check", "-canary", "10%", "-migrate=false").check(t, command.Done, "the configuration is valid: it listens on :8080\n",
			"baton: warning: -canary: with -migrate=false no connection can be given to a successor on trial\n")
	})
	t.Run("backends that do not answer", func(t *testing.T) {
		backend := httptest.NewServer(http.NotFoundHandler())
		defer backend.Close()
		listens, silent := backend.URL, "unix:"+filepath.Join(t.TempDir(), "s")
		refused := "baton: warning: backend " + silent + " does not answer: dial unix " + silent[5:] + ": connect: no such file or directory\n"
		valid := "the configuration is valid: it listens on :8080\n"
		call(t, nil, "check", "-proxy", "/="+silent+",/="+listens+",/a/="+silent).check(t, command.Done, valid, refused)
		call(t, nil, "check", "-proxy", "/="+silent+",/="+listens, "-proxy-health", "/health").check(t, command.Done, valid,
			refused+"baton: warning: backend "+listens+" does not answer: /health: status 404\n")
	})
	t.Run("problems", func(t *testing.T) {
		call(t, nil, "check", "-max-body", "x", "-log-level", "y").check(t, command.BadUsage, "",
			"baton: -max-body: \"x\" is not a number of bytes of 1 or more\nbaton: -log-level: \"y\" is not one of debug, info, warn, error\n")
	})
	t.Run("keeps a listener of the running server", func(t *testing.T) {
		call(t, nil, "check", "-listen", "127.0.0.1:81,127.0.0.1:82", "-control", fakeServer(t, "status", running)).check(t, command.Done,
			"the configuration is valid: it listens on 127.0.0.1:81, 127.0.0.1:82\n", "")
	})
	t.Run("drops all listeners of the running server", func(t *testing.T) {
		call(t, nil, "check", "-listen", "127.0.0.1:82", "-control", fakeServer(t, "status", running)).check(t, command.BadUsage, "",
			"baton: an upgrade to this configuration would drop every listener of the running server, [\"127.0.0.1:81\"]; keep one of them in this upgrade, or restart the service\n")
	})
	t.Run("the running server does not answer", func(t *testing.T) {
		journal := func(c *command.Call) { c.Destination = settings.Journal } // a warning is no error there
		call(t, journal, "check", "-control", fakeServer(t, "status", "")).check(t, command.Done, "the configuration is valid: it listens on :8080\n",
			"baton: warning: it is unknown whether the running server could be upgraded to it: the server ended before it answered\n")
	})
	t.Run("as a user that does not exist", func(t *testing.T) {
		call(t, nil, "check", "-user", "nosuch").check(t, command.BadUsage, "", "baton: -user: user: unknown user nosuch\n")
	})
	t.Run("as this user", func(t *testing.T) {
		call(t, nil, "check", "-user", fmt.Sprint(os.Geteuid())).check(t, command.Done, "the configuration is valid: it listens on :8080\n", "")
	})
}

func TestName(t *testing.T) {
	for args, want := range map[string]string{
		"": "", "-listen :1": "", "status -json": "status", "-version": "-version", "--version": "--version", "-status": "", "nosuch": "nosuch", "-h": "",
	} {
		if got := command.Name(strings.Fields(args)); got != want {
			t.Errorf("%s: got %q, want %q", args, got, want)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, name := range []string{"version", "-version", "--version"} {
		if r := call(t, nil, name); r.code != command.Done || !strings.HasPrefix(r.stdout, "baton 1.4.0 (commit abc, go") {
			t.Errorf("%s: got exit code %d, %s%s", name, r.code, r.stdout, r.stderr)
		}
	}
	if b := command.ReadBuild("1"); b.Version != "1" || b.Revision == "" {
		t.Errorf("got %+v, want version 1", b)
	}
	if b := command.ReadBuild(""); b.Version == "" {
		t.Error("got no version")
	}
}

func TestHelp(t *testing.T) {
	for _, tt := range []struct{ args, flag string }{
		{"help", "-listen address"}, {"check -h", "-user name"}, {"status --help", "-timeout duration"}, {"upgrade -h", "-canary share"}, {"upgrade -h", "-json"}, {"promote -h", "-timeout duration"}, {"abort -h", "-reason text"},
	} {
		r := call(t, nil, strings.Fields(tt.args)...)
		if r.code != command.Done || r.stderr != "" || !strings.HasPrefix(r.stdout, "baton [flags] ") || !strings.Contains(r.stdout, "  "+tt.flag) {
			t.Errorf("%s: got exit code %d, %q, %s, want help with %s", tt.args, r.code, r.stderr, r.stdout, tt.flag)
		}
	}
}

func TestFail(t *testing.T) {
	journal := func(c *command.Call) { c.Destination = settings.Journal }
	call(t, journal, "nosuch").check(t, command.BadUsage, "",
		"<3>baton: unknown command \"nosuch\"; want upgrade, promote, abort, status, check, version, or flags to serve\n")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{upgrade.ErrControl, "baton: the control socket cannot be claimed (the control socket; -control names another)\n"},
		{upgrade.ErrUnderway, "baton: " + upgrade.ErrUnderway.Error() + "; baton status shows how it ends\n"},
		{fmt.Errorf("one\ntwo"), "baton: one\nbaton: two\n"},
	} {
		var stderr strings.Builder
		c := &command.Call{Stderr: &stderr}
		if code := c.Fail(command.Failed, tt.err); code != command.Failed || stderr.String() != tt.want {
			t.Errorf("got exit code %d, %q, want %d, %q", code, stderr.String(), command.Failed, tt.want)
		}
	}
}

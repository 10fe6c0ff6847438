package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/tier"
)

// The deploy script over ssh: one host after the other, each of them a machine of its own, and a stand-in
// for ssh on the PATH, which runs the command in the machine that has the name.

// ssh takes what the real one takes, and hands the command to a shell as sshd does. A machine is a file that
// holds the pid of its process 1.
const ssh = `#!/bin/sh
here=${0%/*}
while :; do
	case $1 in
	-o) shift 2 ;;
	-*) exit 255 ;;
	*) break ;;
	esac
done
host=$1
shift
echo "$host" >>"$here/calls"
if [ ! -f "$here/host-$host" ]; then
	echo "ssh: Could not resolve hostname $host: Name or service not known" >&2
	exit 255
fi
enter="nsenter -t $(cat "$here/host-$host") -m -u -i -p -C -- env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root GORACE=atexit_sleep_ms=0"
if [ -f "$here/cut" ]; then
	head -c 1000000 | $enter sh -c "$*"
else
	exec $enter sh -c "$*"
fi
`

// Operator is who deploys from a place where no service runs.
type Operator struct {
	t   testing.TB
	dir string
}

func operator(t testing.TB) *Operator {
	t.Helper()
	o := &Operator{t, t.TempDir()}
	files.Put(t, []byte(ssh), filepath.Join(o.dir, "ssh"), 0o755)
	return o
}

// knows gives a machine a name.
func (o *Operator) knows(host string, u *machine.Unit) {
	o.t.Helper()
	files.Put(o.t, []byte(strconv.Itoa(u.Init.Pid)), filepath.Join(o.dir, "host-"+host), 0o644)
}

// deploy runs the deploy script, and checks its exit code.
func (o *Operator) deploy(want int, args ...string) (stdout, stderr string) {
	o.t.Helper()
	code, stdout, stderr := process.Run(o.t, deployScript(o.t), append(os.Environ(), "PATH="+o.dir+":"+os.Getenv("PATH")), args...)
	if code != want {
		o.t.Fatalf("deploy.sh %v: got exit code %d, want %d:\n%s%s", args, code, want, stdout, stderr)
	}
	return stdout, stderr
}

// calls returns whom ssh was asked for, in turn, since the last time.
func (o *Operator) calls() string {
	path := filepath.Join(o.dir, "calls")
	calls, _ := os.ReadFile(path)
	os.Remove(path)
	return strings.Join(strings.Fields(string(calls)), " ")
}

func checkOutput(t *testing.T, what, got string, want ...string) {
	t.Helper()
	for _, want := range want {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: got\n%s\nwant %s", what, got, want)
		}
	}
}

func TestSystemdDeployHosts(t *testing.T) {
	tier.Long(t, "boots one machine after another")
	t.Parallel()
	o := operator(t)
	one, two := machine.Running(t), machine.Running(t)
	o.knows("web1", one)
	o.knows("admin@web2.example.com", two)
	hosts := []string{"--host", "web1", "--host", "admin@web2.example.com"}
	web2 := `admin@web2\.example\.com`
	v2, v3 := build.Version(t, "v2"), build.Version(t, "v3")
	check := func(u *machine.Unit, generation int, inPlace, previous string) {
		t.Helper()
		checkFilesIn(u, inPlace, previous)
		u.CheckServes(t, generation, inPlace)
		if left, _ := filepath.Glob(u.Path("/tmp/deploy.*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}

	// An unreachable one in the middle: what comes after it stays as it is.
	stdout, stderr := o.deploy(1, "--host", "web1", "--host", "web9", "--host", "admin@web2.example.com", v2)
	checkOutput(t, "unreachable host", stdout, `^web1:\nchecked `, `\nweb9:\n\n`,
		`\nweb1 +done +v2 \(\w+\) serves: generation 2, pid \d+; before it: v1 \(\w+\)
web9 +failed +unknown: ssh: Could not resolve hostname web9: .*
`+web2+` +not touched +v1 \(\w+\) serves: generation 1, pid \d+
$`)
	checkOutput(t, "unreachable host, stderr", stderr, `deploy: web9: cannot be reached with ssh\n(.*\n)*deploy: stopped at web9\n$`)
	if got := o.calls(); got != "web1 web9 web1 web9 admin@web2.example.com" {
		t.Errorf("hosts were asked in turn %s", got)
	}
	check(one, 2, "v2", "v1")
	check(two, 1, "v1", "")

	// The same again, now that all can be reached: who has it is passed over.
	stdout, _ = o.deploy(0, append(hosts, v2)...)
	checkOutput(t, "second run", stdout, `^web1:\nunchanged +\S+ s   v2 \(\w+\) serves already: generation 2, .* answers 200`, `\n`+web2+`:\nchecked `,
		`\nweb1 +done +v2 .*\n`+web2+` +done +v2 \(\w+\) serves: generation 2, `)
	check(one, 2, "v2", "v1")
	check(two, 2, "v2", "v1")

	// The first fails, the second is not touched.
	one.Configure("frobnicate true")
	stdout, stderr = o.deploy(1, append(hosts, v3)...)
	checkOutput(t, "bad host", stdout, `\nweb1 +failed +v2 .*\n`+web2+` +not touched +v2 `)
	checkOutput(t, "bad host, stderr", stderr, `^deploy: web1: the new binary is invalid: its check of today's configuration fails`, `frobnicate`, `\ndeploy: stopped at web1\n$`)
	check(one, 2, "v2", "v1")
	check(two, 2, "v2", "v1")
	one.Configure()

	// A copy that breaks off is no release.
	files.Put(t, nil, filepath.Join(o.dir, "cut"), 0o644)
	_, stderr = o.deploy(1, "--host", "web1", v3)
	checkOutput(t, "copy breaks off", stderr, `^deploy: web1: the copy did not arrive whole; nothing was changed\n`)
	os.Remove(filepath.Join(o.dir, "cut"))
	check(one, 2, "v2", "v1")

	// Every flag arrives as it was given.
	path := `/100.bin?x='$HOME"&y=\;*`
	stdout, _ = o.deploy(0, append(hosts, "--rollback", "--health", path, "--unit", "baton")...)
	if got := strings.Count(stdout, ":80"+path+" answers 200"); got != 2 {
		t.Errorf("--rollback --health %s: got\n%s", path, stdout)
	}
	check(one, 3, "v1", "v2")
	check(two, 3, "v1", "v2")

	stdout, stderr = o.deploy(0, append(hosts, "--status")...)
	if want := regexp.MustCompile(`^web1 +v1 \(\w+\) serves: generation 3, pid \d+; before it: v2 \(\w+\)\n` + web2 + ` +v1 \(\w+\) .*\n$`); !want.MatchString(stdout) || stderr != "" {
		t.Errorf("--status: got %s%s", stdout, stderr)
	}
	o.deploy(1, "--host", "web1", "--host", "web9", "--status")

	// With another command for ssh, and through sudo, which must not ask.
	one.Put("/usr/local/bin/sudo", "#!/bin/sh\n[ \"$1\" = -n ] || exit 1\nshift\ntouch /run/sudone\nexec \"$@\"\n", 0o755)
	other := filepath.Join(o.dir, "other")
	if out, err := exec.Command("cp", filepath.Join(o.dir, "ssh"), other).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	os.Remove(filepath.Join(o.dir, "ssh"))
	o.deploy(0, "--sudo", "--ssh", fmt.Sprintf("%s -o Port=2222", other), "--host=web1", v3)
	check(one, 4, "v3", "v1")
	if _, err := os.Stat(one.Path("/run/sudone")); err != nil {
		t.Error("sudo was not used")
	}
}

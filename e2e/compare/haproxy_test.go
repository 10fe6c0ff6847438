package compare

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/tier"
)

const haproxyConfig = `
defaults
	mode http
	timeout connect 5s
	timeout client 1h
	timeout server 1h
	OPTION

frontend service
	bind ADDRESS
	bind SECURE ssl crt BOTH alpn h2,http/1.1
	http-request return status 200 content-type application/octet-stream string "BODY" hdr X-Pid %pid
`

func startHAProxy(t *testing.T) *other {
	return startHAProxyWith(t, "master-worker reload (USR2)", "")
}

func startHAProxyPatient(t *testing.T) *other {
	return startHAProxyWith(t, "reload with `option idle-close-on-response`", "option idle-close-on-response")
}

// startHAProxyWith starts HAProxy as Debian's unit does: with a master, which passes the listeners on by itself,
// and answers on a socket of its own.
func startHAProxyWith(t *testing.T, recipe, setting string) *other {
	path := tier.Tool(t, "haproxy")
	p := otherPlace(t)
	config, control := filepath.Join(p.dir, "haproxy.cfg"), filepath.Join(p.dir, "master.sock")
	files.Put(t, []byte(p.fill(strings.ReplaceAll(haproxyConfig, "OPTION", setting))), config, 0o644)
	master := runOther(t, p.dir, path, "-W", "-f", config, "-S", control)
	t.Cleanup(func() {
		serving, leaving := haproxyWorkers(control)
		endOther(t, []*process.Process{master}, append(serving, leaving...))
	})
	o := &other{
		name:    fmt.Sprintf("HAProxy %s, %s", versionAfter(t, path, "version "), recipe),
		place:   p,
		workers: func() []int { serving, _ := haproxyWorkers(control); return serving },
		answers: func() int { return whoAnswers(p.address) },
		renew:   func(t *testing.T) { signalOther(t, master, syscall.SIGUSR2) },
	}
	await.Until(t, "answer of HAProxy", func() bool { return o.answers() != 0 })
	return o
}

// haproxyWorkers asks the master for its workers: those that serve, and old ones that still have connections.
func haproxyWorkers(control string) (serving, leaving []int) {
	c, err := net.DialTimeout("unix", control, time.Second)
	if err != nil {
		return nil, nil // it executes itself anew at each reload
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "show proc; quit\n")
	said, _ := io.ReadAll(c)
	list := &serving
	for line := range strings.Lines(string(said)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "# old workers") {
			list = &leaving
		}
		if len(fields) > 1 && fields[1] == "worker" {
			if pid, err := strconv.Atoi(fields[0]); err == nil {
				*list = append(*list, pid)
			}
		}
	}
	return serving, leaving
}

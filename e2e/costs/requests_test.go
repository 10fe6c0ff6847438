package costs

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// server is one that is measured.
type server struct {
	name           string
	pid            int
	address, above string // without TLS, and with it
}

// bare starts the program of testdata/bare.
func (g *ground) bare(t *testing.T) server {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "bare")
	if out, err := exec.Command("go", "build", "-o", bin, "example.com/baton/e2e/testdata/bare").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	host := service.Loopback()
	s := server{name: "bare", address: net.JoinHostPort(host, service.FreePort(t, host)), above: net.JoinHostPort(host, service.FreePort(t, host))}
	cmd := exec.Command(bin, "-listen", s.address, "-tls", s.above, "-root", g.root, "-cert", g.cert, "-key", g.key)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = cmd.Process.Pid
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	await.Until(t, "an answer", func() bool { return http1.Answers("tcp", s.address) })
	return s
}

// ways are how files are asked for.
var ways = []struct {
	name   string
	secure bool
	args   []string
}{
	{"HTTP/1.1", false, []string{"--h1"}},
	{"HTTP/1.1 over TLS", true, []string{"--h1"}},
	{"HTTP/2", false, []string{"-m", "4"}},
	{"HTTP/2 over TLS", true, []string{"-m", "4"}},
}

var finished = regexp.MustCompile(`finished in .*, ([0-9.]+) req/s[^\n]*\nrequests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded`)

// TestRequests measures the processor time of the server for a request, and how many it answers in a second.
func TestRequests(t *testing.T) {
	turns, share := turns(t)
	h2load := tier.Tool(t, "h2load")
	g := newGround(t)
	if *rounds > 0 {
		time.Sleep(time.Minute + time.Second) // Baton remembers no file that has changed since
	}
	before, _ := g.baton(t, other(t))
	now, _ := g.baton(t, "")
	servers := []server{g.bare(t), {"before", before.PID(), before.Address, before.Secure()}, {"now", now.PID(), now.Address, now.Secure()}}

	var table strings.Builder
	fmt.Fprintf(&table, "| | µs of CPU a request: bare | before | now | now/before | now/bare | requests/s: before | now | now/before |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, way := range ways {
		for _, file := range []struct {
			name     string
			requests int
		}{{"1KB", 20_000}, {"100KB", 4_000}, {"10MB", 60}} {
			n := max(16, int(float64(file.requests)*share))
			cpu, rate := make([][]float64, len(servers)), make([][]float64, len(servers))
			for range turns {
				for i, s := range servers {
					url := "http://" + s.address
					if way.secure {
						url = "https://" + s.above
					}
					began := processorTime(t, s.pid)
					out, err := exec.Command(h2load, append(way.args, "-c", "16", "-w", "20", "-W", "22", "-n", strconv.Itoa(n), url+"/"+file.name)...).CombinedOutput()
					m := finished.FindSubmatch(out)
					if err != nil || m == nil || string(m[2]) != string(m[3]) {
						t.Fatalf("h2load: %v\n%s", err, out)
					}
					perSecond, _ := strconv.ParseFloat(string(m[1]), 64)
					cpu[i] = append(cpu[i], float64((processorTime(t, s.pid)-began).Nanoseconds())/1000/float64(n))
					rate[i] = append(rate[i], perSecond)
				}
			}
			fmt.Fprintf(&table, "| %s, %s | %.0f | %.0f | %.0f | %.2f | %.2f | %.0f | %.0f | %.2f |\n", way.name, file.name,
				median(cpu[0]), median(cpu[1]), median(cpu[2]), ratio(cpu[2], cpu[1]), ratio(cpu[2], cpu[0]), median(rate[1]), median(rate[2]), ratio(rate[2], rate[1]))
		}
	}
	t.Logf("medians of %d turns:\n%s", turns, &table)
}

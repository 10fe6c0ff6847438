package limits

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Clients that never read cost a bounded amount of memory, and do not hold a drain
// until its deadline.
func TestClientsThatNeverRead(t *testing.T) {
	tier.Slow(t, "asks for gigabytes")
	t.Parallel()
	root := t.TempDir()
	var text strings.Builder
	for n := 0; text.Len() < 24<<20; n++ { // that does not compress well
		fmt.Fprintf(&text, "%x\n", uint64(n)*0x9e3779b97f4a7c15)
	}
	files.Put(t, []byte(text.String()), filepath.Join(root, "large.txt"), 0o644)
	clients, deadline := 200, 12*time.Second
	if build.Race { // with which compressing takes long
		clients, deadline = 10, 15*time.Second
	}
	b := service.Start(t, service.Args("-root", root, "-drain-timeout", deadline.String()))
	before := residentMemory(t, b.PID())
	for range clients {
		b.Dial().Send(t, "GET /large.txt HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
	}
	await.Until(t, "requests of all clients", func() bool {
		return b.Metric("baton_http_requests_in_flight") == float64(clients)
	})
	grown := residentMemory(t, b.PID()) - before
	t.Logf("memory of %d clients: %d MB", clients, grown>>20)
	if most := 130 << 20; grown > most && !build.Race {
		t.Errorf("%d clients take %d MB, want %d at most", clients, grown>>20, most>>20)
	}
	begin := time.Now()
	b.Stop()
	if log := b.Log(); !strings.Contains(log, `"closed_forcibly":0`) {
		t.Errorf("the drain took %v, and something was closed at its deadline:\n%s", time.Since(begin), log)
	}
}

func residentMemory(t testing.TB, pid int) (bytes int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(stat))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

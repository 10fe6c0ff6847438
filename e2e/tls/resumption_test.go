package tls

import (
	"crypto/tls"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Session tickets: a client that has been here resumes its session, whatever generation gave it the ticket.

// regulars are clients that come again, each with a session of its own. Every other speaks TLS 1.2.
type regulars []*tls.Config

func newRegulars(t testing.TB, n int, certFile string) regulars {
	t.Helper()
	all := make(regulars, n)
	base := trustingHTTP1(t, certFile)
	for i := range all {
		all[i] = base.Clone()
		all[i].ClientSessionCache = tls.NewLRUClientSessionCache(1)
		if i%2 == 1 {
			all[i].MaxVersion = tls.VersionTLS12
		}
	}
	return all
}

// visit has each client visit once, and returns how many have resumed their session.
func (r regulars) visit(t *testing.T, b *service.Baton) (resumed int) {
	t.Helper()
	var n atomic.Int64
	address := b.Secure()
	await.InParallel(t, len(r), func(i int) error {
		state, err := visit(address, r[i])
		if want := r[i].MaxVersion; err == nil && want != 0 && state.Version != want {
			err = fmt.Errorf("got TLS version %x, want %x", state.Version, want)
		}
		if state.DidResume {
			n.Add(1)
		}
		return err
	})
	return int(n.Load())
}

// sessions is how many go through the upgrades: with the race detector, handshakes take much longer.
func sessions() int {
	if build.Race {
		return 50
	}
	return 200
}

func TestResumptionThroughUpgrades(t *testing.T) {
	tier.Slow(t, "resumes sessions through upgrades")
	t.Parallel()
	upgrades := tier.Times(t, "upgrades", 0, 5, 10)
	certFile, keyFile := certificate.Certificate(t)
	b := service.Start(t, service.OverTLS(certFile, keyFile), service.Files(t), service.Args("-idle-grace", "50ms"))
	clients := newRegulars(t, sessions(), certFile)
	if resumed := clients.visit(t, b); resumed != 0 {
		t.Errorf("first visit: %d of %d sessions resumed, want none", resumed, len(clients))
	}
	for n := range upgrades {
		b.Upgrade()
		if resumed := clients.visit(t, b); resumed != len(clients) {
			t.Errorf("after upgrade %d: %d of %d sessions resumed, want all", n+1, resumed, len(clients))
		}
	}
	// A ticket may be older than one generation.
	early := newRegulars(t, 20, certFile)
	early.visit(t, b)
	for range 3 {
		b.Upgrade()
	}
	if resumed := early.visit(t, b); resumed != len(early) {
		t.Errorf("after three upgrades in between: %d of %d sessions resumed, want all", resumed, len(early))
	}
}

// The opposite, so that the test above proves something: without the keys no session goes on.
func TestNoResumptionWithoutTheKeys(t *testing.T) {
	tier.Slow(t, "builds another program")
	t.Parallel()
	certFile, keyFile := certificate.Certificate(t)
	b := service.Start(t, service.OverTLS(certFile, keyFile), service.Files(t), service.Args("-idle-grace", "50ms"))
	clients := newRegulars(t, sessions()/5, certFile)
	clients.visit(t, b)
	check := func(when string, want int) {
		t.Helper()
		if resumed := clients.visit(t, b); resumed != want {
			t.Errorf("%s: %d of %d sessions resumed, want %d", when, resumed, len(clients), want)
		}
	}
	check("second visit", len(clients))
	b.Deploy(build.Keyless)
	b.Upgrade() // still hears of its predecessor's
	check("upgrade to a program that will not hand on its keys", len(clients))
	b.Deploy("v1")
	b.Upgrade()
	check("upgrade from a program that does not hand on its keys", 0)
	check("second visit thereafter", len(clients))
	b.Stop()
	b.Launch()
	b.AwaitReady()
	check("restart", 0)
}

// BenchmarkReconnect tells what it costs the server when its clients come back at once, with the sessions that they
// have and without:
//
//	go test ./e2e/tls -run xxx -bench Reconnect -benchtime 1000x
func BenchmarkReconnect(b *testing.B) {
	for _, kind := range []struct {
		name string
		key  certificate.KeyKind
	}{{"ECDSA-P256", certificate.EcdsaKey}, {"RSA-2048", certificate.RsaKey}} {
		certFile, keyFile := kind.key.Certificate(b, certificate.ValidNow, http1.Host)
		service := service.Start(b, service.OverTLS(certFile, keyFile), service.Files(b), service.Args("-log-level", "warn"))
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, how := range []string{"full", "resumed"} {
				b.Run(fmt.Sprintf("%s/%s/%s", kind.name, strings.ReplaceAll(tls.VersionName(version), " ", ""), how), func(b *testing.B) {
					config := trustingHTTP1(b, certFile)
					config.MinVersion, config.MaxVersion = version, version
					if how == "resumed" {
						config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
						if _, err := visit(service.Secure(), config); err != nil {
							b.Fatal(err)
						}
					}
					before := processorTime(b, service.PID())
					b.SetParallelism(16)
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							state, err := visit(service.Secure(), config)
							if err != nil || state.DidResume != (how == "resumed") {
								b.Errorf("resumed: %v, %v", state.DidResume, err)
							}
						}
					})
					took := processorTime(b, service.PID()) - before
					b.ReportMetric(float64(took.Microseconds())/float64(b.N), "server-µs/op")
				})
			}
		}
	}
}

// processorTime is what a process has taken of the processors, in steps of 10 ms.
func processorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

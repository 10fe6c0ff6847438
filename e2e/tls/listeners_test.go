package tls

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Listeners for TLS through upgrades: those that stay, those that begin or cease to be for TLS, and the redirect to them.

// asker asks back to back on a connection of its own for as long as it may.
type asker struct {
	c      *http1.Conn
	served int
	told   bool // by a response that it is the last one
	err    error
}

func (a *asker) run(stop <-chan struct{}) {
	var resp http1.Response
	for !a.told {
		select {
		case <-stop:
			return
		default:
		}
		a.c.SetDeadline(time.Now().Add(await.Hang))
		if _, a.err = a.c.Write(http1.Request("GET", "/100.bin", nil)); a.err != nil {
			return
		}
		if a.err = a.c.Receive("GET", &resp); a.err != nil {
			return
		}
		if resp.Status != 200 || len(resp.Body) != 100 {
			a.err = fmt.Errorf("got status %d, %d bytes", resp.Status, len(resp.Body))
			return
		}
		a.served++
		a.told = resp.Close
		time.Sleep(5 * time.Millisecond)
	}
}

// An address that speaks another protocol from one generation to the next: what was connected is served and
// closed gracefully by the generation that accepted it, and never given to one that would not understand it.
func TestAddressChangesItsProtocol(t *testing.T) {
	t.Parallel()
	const plain, secure = "", "tls:"
	for _, tt := range []struct {
		name, from, to string
		moves          bool
	}{
		{"plain to TLS", plain, secure, false},
		{"TLS to plain", secure, plain, false},
		{"TLS to TLS", secure, secure, true},
		{"plain to plain", plain, plain, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.moves {
				tier.Slow(t, "an address that keeps its protocol")
			}
			t.Parallel()
			certFile, keyFile := certificate.Certificate(t)
			client := trustingHTTP1(t, certFile)
			host := service.Loopback()
			address := net.JoinHostPort(host, service.FreePort(t, host))
			// Another listener for TLS, so that the files are always of use.
			const lines = "listen HOST:0\nlisten tls:HOST:0\nlisten "
			b := service.Prepare(t, service.ListenInFile(), service.Config(lines+tt.from+address), service.Files(t),
				service.Args("-idle-grace", await.Unhurried(2*time.Second).String(), "-read-header-timeout", "1m", "-tls-cert", certFile, "-tls-key", keyFile))
			b.Launch()
			b.AwaitReady()
			connect := func(protocol string) (c *http1.Conn) {
				t.Helper()
				if protocol == secure {
					return mustHandshake(t, address, client)
				}
				return http1.MustDial(t, "tcp", address)
			}
			const each = 20
			var idle, fresh []*http1.Conn
			var askers []*asker
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range each {
				c := connect(tt.from)
				if err := http1.Ask(c); err != nil {
					t.Fatal(err)
				}
				idle = append(idle, c)
				fresh = append(fresh, connect(tt.from)) // has not asked yet
				a := &asker{c: connect(tt.from)}
				askers = append(askers, a)
				wg.Go(func() { a.run(stop) })
			}
			b.Configure(lines + tt.to + address + "\n")
			u := b.Upgrade()
			enough := time.AfterFunc(5*time.Second, func() { close(stop) }) // or those that have moved ask for ever
			if tt.moves && enough.Stop() {
				close(stop)
			}
			wg.Wait()
			for _, a := range askers {
				if a.err != nil || a.told == tt.moves || a.served == 0 {
					t.Errorf("a client that asks back to back: %d answers, sent Connection: close: %v, %v, want that it moves: %v", a.served, a.told, a.err, tt.moves)
				}
			}
			for _, c := range append(idle, fresh...) {
				if tt.moves {
					if err := http1.Ask(c); err != nil {
						t.Errorf("an idle client: %v", err)
					}
				} else if end := c.AwaitClose(await.Hang); end != http1.Fin {
					t.Errorf("an idle client: got %v, want FIN", end)
				}
			}
			ended := u.Predecessor.Connections
			if ended.Cut+ended.Error+ended.Timeout != 0 || (u.Predecessor.Moved > 0) != tt.moves {
				t.Errorf("the predecessor: got %+v, want nothing closed forcibly or failed, and that connections moved: %v", u.Predecessor, tt.moves)
			}
			if !tt.moves && (ended.Announced < each || ended.Grace != 2*each) {
				t.Errorf("the predecessor's connections: got %+v, want %d announced, %d closed after their grace", ended, each, 2*each)
			}
			if err := http1.Ask(connect(tt.to)); err != nil {
				t.Errorf("a new client: %v", err)
			}
			if tt.to != tt.from {
				if tt.to == secure {
					c := http1.MustDial(t, "tcp", address)
					c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
					c.Expect(t, "GET", 400)
				} else if _, err := visit(address, client); err == nil {
					t.Error("TLS to the plaintext listener: got an answer")
				}
			}
			b.Configure(lines + tt.from + address + "\n") // and back
			b.Upgrade()
			if err := http1.Ask(connect(tt.from)); err != nil {
				t.Errorf("a new client, when all is as it was: %v", err)
			}
		})
	}
}

// A request in the grace of a connection that cannot migrate is answered, with `Connection: close`.
func TestTLSIdleConnectionAsksInItsGrace(t *testing.T) {
	tier.Slow(t, "waits for the grace of connections")
	t.Parallel()
	certFile, keyFile := certificate.Certificate(t)
	b := service.Start(t, service.OverTLS(certFile, keyFile), service.Files(t), service.Args("-migrate=false", "-idle-grace", "45s", "-drain-timeout", "1h"))
	c := mustConnect(t, b.Secure(), trustingHTTP1(t, certFile))
	predecessor := b.PID()
	result := b.UpgradeMeanwhile()
	await.Until(t, "successor that serves", func() bool { return b.PID() != predecessor && b.Probe("/readyz") == 200 })
	await.Until(t, "announcement", func() bool {
		c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
		return c.Expect(t, "GET", 200).Close
	})
	if end := c.AwaitClose(await.Hang); end != http1.Fin {
		t.Errorf("after the announcement: got %v, want FIN", end)
	}
	if u := result(); u.Code != 0 || u.Predecessor.Connections.Announced != 1 || u.Predecessor.DrainSeconds > 40 {
		t.Errorf("upgrade: got exit code %d, %+v, want one connection announced, and no grace waited for", u.Code, u.Predecessor)
	}
}

// Plaintext listeners on TCP lead to the one for TLS, those on unix sockets and TLS itself serve.
func TestRedirectToHTTPS(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate.Certificate(t)
	b := service.Start(t, service.Listen("HOST:PORT", "unix:DIR/s.sock", "tls:HOST:PORT", "tls:HOST:PORT"), service.Files(t),
		service.Args("-idle-grace", "50ms", "-redirect-https", "-tls-cert", certFile, "-tls-key", keyFile))
	address := b.Secure()
	_, port, _ := net.SplitHostPort(address)
	redirects := func(c *http1.Conn, method, target, host, want string) {
		t.Helper()
		c.Send(t, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", method, target, host))
		resp := c.Expect(t, method, 308)
		if got := resp.Header("Location"); got != want || resp.Close {
			t.Errorf("%s %s of %s: got %q, to be closed: %v, want %q and the connection kept", method, target, host, got, resp.Close, want)
		}
	}
	kept := b.Dial()
	unix := http1.MustDial(t, "unix", filepath.Join(b.Dir, "s.sock"))
	for generation := 1; generation <= 3; generation++ {
		for _, c := range []*http1.Conn{kept, b.Dial()} { // one has moved
			redirects(c, "GET", "/100.bin?a=b&c=%20d", http1.Host, "https://"+http1.Host+":"+port+"/100.bin?a=b&c=%20d")
			redirects(c, "HEAD", "/", http1.Host+":8080", "https://"+http1.Host+":"+port+"/")
			redirects(c, "POST", "/x//y", "[::1]:80", "https://[::1]:"+port+"/x//y")
		}
		if err := http1.Ask(unix); err != nil {
			t.Errorf("generation %d, unix socket: %v", generation, err)
		}
		if _, err := visit(address, trustingHTTP1(t, certFile)); err != nil {
			t.Errorf("generation %d, TLS: %v", generation, err)
		}
		if resp := b.Probe("/readyz"); resp != 200 {
			t.Errorf("generation %d, admin listener: got %d, want 200", generation, resp)
		}
		if u := b.Upgrade(); u.Predecessor.Moved < 2 {
			t.Errorf("%d connections moved, want 2", u.Predecessor.Moved)
		}
	}
	tier.Tool(t, "curl")
	code, body, stderr := process.Run(t, tier.Tool(t, "curl"), nil, "--silent", "--show-error", "--fail", "--location", "--cacert", certFile, "--output", "-", "--write-out", "\n%{num_redirects} %{scheme} %{http_version}",
		"--connect-to", http1.Host+"::"+b.Host+":", "http://"+http1.Host+":"+portOf(b.Address)+"/100.bin")
	if want := string(exchange.Pattern(100)) + "\n1 "; code != 0 || !strings.HasPrefix(strings.ToUpper(body), strings.ToUpper(want)+"HTTPS 2") {
		t.Errorf("curl: got exit code %d, %q, %s, want the file after one redirect to HTTPS, over HTTP/2", code, body, stderr)
	}
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// A socket that a unit holds may be for TLS: it is found by its address, and new connections wait in it through a restart.
func TestSocketUnitForTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate.Certificate(t)
	host := service.Loopback()
	address := net.JoinHostPort(host, service.FreePort(t, host))
	m, with := service.Managed(t, 0)
	b := service.Start(t, with, service.SocketUnit(t, address), service.Listen("HOST:PORT", "tls:"+address), service.Files(t),
		service.Args("-idle-grace", "50ms", "-tls-cert", certFile, "-tls-key", keyFile))
	config := trustingHTTP1(t, certFile)
	for range 2 {
		if _, err := visit(address, config); err != nil {
			t.Fatal(err)
		}
		b.Upgrade()
	}
	m.AwaitKept(t, 2) // the other two: the plaintext and the admin listener
	b.Stop()
	var answered atomic.Bool
	waits := make(chan error, 1)
	go func() {
		_, err := visit(address, config)
		answered.Store(true)
		waits <- err
	}()
	await.Throughout(t, 100*time.Millisecond, "nobody answers yet", func() bool { return !answered.Load() })
	b.Launch()
	if err := <-waits; err != nil {
		t.Errorf("a client that came while the service was stopped: %v", err)
	}
	b.AwaitReady()
}

package http2

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Clients of HTTP/2 that others have written, through upgrades: h2load, and that of Go's net/http.

// slowly is an echo backend that takes a while, so that at a handoff there are always requests under way.
func slowly(w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(200 * time.Millisecond):
		backend.Echo(w, r)
	case <-r.Context().Done():
	}
}

// startSlowly starts a service with a listener without TLS and one with it, and returns the address of the latter, and
// what its clients need.
func startSlowly(t *testing.T, args ...string) (b *service.Baton, over string, config *tls.Config) {
	serve, secure := service.Secured(t)
	b = service.Start(t, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(slowly))), serve, service.Listen("HOST:PORT", "tls:HOST:PORT"),
		service.Args(args...))
	_, over = service.SplitAddress(b.Setup.Listen[1])
	return b, over, secure.Config
}

var h2loadSummary = regexp.MustCompile(`requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout
status codes: (\d+) 2xx`)

// Without migration, that is with GOAWAYs. h2load never connects again: what a client has still to ask when its connection is sent a GOAWAY counts as failed,
// without having been sent. So each client makes all its requests at once, and new clients come all the time; at
// each handoff there are some whose requests are under way, and some that have just come.
func TestH2loadThroughUpgrades(t *testing.T) {
	tier.Slow(t, "runs h2load")
	t.Parallel()
	path := tier.Tool(t, "h2load")
	b, over, _ := startSlowly(t, "-idle-grace", "20s", "-migrate=false")
	upload := filepath.Join(b.Dir, "upload")
	files.Put(t, exchange.Pattern(20_000), upload, 0o600)

	const each, clients = 4, 48
	run := func(args ...string) func() string {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		// Who takes a second to send its requests on a connection that is sent a GOAWAY counts them as failed: h2load goes
		// first where the tests may say so.
		cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "-15", path}, append(args, "-c", strconv.Itoa(clients), "-n", strconv.Itoa(each*clients), "-m", strconv.Itoa(each),
			"-r", "1", "--rate-period", "100ms")...)...) // for 5 s
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			cancel()
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait(); cancel() }()
		t.Cleanup(func() { cancel(); <-done })
		return func() string {
			if err := <-done; err != nil {
				t.Errorf("h2load: %v", err)
			}
			close(done)
			return out.String()
		}
	}
	runs := map[string]func() string{
		"GET over TLS":            run("https://" + over + "/fixed/5000"),
		"POST by prior knowledge": run("-d", upload, "http://"+b.Address+"/echo"),
	}
	await.Until(t, "requests of many connections", func() bool { return b.Status().Generations[0].RequestsInFlight >= 3*each })
	// On a busy machine the last of the upgrades may come when all is answered.
	told, finished := 0, 0
	upgrades := tier.Times(t, "upgrades", 0, 1, 3)
	for i := range upgrades {
		u := b.Upgrade()
		c := u.Predecessor.Connections
		if c.Cut+c.Error+c.Timeout > 0 {
			t.Errorf("upgrade %d: got connections closed %+v, want none in disorder", i+1, c)
		}
		told += c.Announced
		finished += u.Predecessor.RequestsFinished
	}
	if want := 2 + upgrades; told < want || finished < 10 {
		t.Errorf("in all upgrades: got %d connections that were sent a GOAWAY, %d requests under way that finished, want %d and 10 or more", told, finished, want)
	}
	for name, wait := range runs {
		out := wait()
		m := h2loadSummary.FindStringSubmatch(out)
		if m == nil {
			t.Errorf("%s: no summary in\n%s", name, out)
			continue
		}
		all := strconv.Itoa(each * clients)
		if want := []string{all, all, all, all, "0", "0", "0", all}; fmt.Sprint(m[1:]) != fmt.Sprint(want) {
			t.Errorf("%s: got\n%s\nwant all of %s requests answered", name, out, all)
		}
		t.Logf("%s: %s", name, m[0])
	}
	t.Logf("%d upgrades, %d connections sent a GOAWAY, %d requests under way", upgrades, told, finished)
}

// onlyOnce is a body that nobody can send a second time. It comes in pieces, with pauses.
type onlyOnce struct {
	rest  []byte
	pause time.Duration
	begun atomic.Bool
}

func (o *onlyOnce) Read(p []byte) (int, error) {
	if o.begun.Swap(true) {
		time.Sleep(o.pause)
	}
	if len(o.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1500)], o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// Go's client makes a request again that was refused, if it can: of these, those without a body. It does not have
// to. With a body it gives up by itself on some of which it has sent nothing yet when a GOAWAY comes (it closes the
// body, and cannot begin anew then): that no server can prevent, and such a request may be made again.
func TestGoClientOfHTTP2ThroughUpgrades(t *testing.T) {
	tier.Slow(t, "makes many upgrades")
	t.Parallel()
	b, over, config := startSlowly(t, "-idle-grace", "8s")
	var asking sync.WaitGroup
	stop := make(chan struct{})
	var requests, uploads, again, unsent atomic.Int64
	problems := make(chan error, 1000)
	ask := func(client *http.Client, method, url string, pause time.Duration) error {
		var body io.Reader
		want := exchange.Pattern(5000)
		if method == "POST" {
			want = exchange.Pattern(15_000)
			body = &onlyOnce{rest: exchange.Pattern(15_000), pause: pause}
		}
		var connected, sent atomic.Int64
		ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			GotConn:      func(httptrace.GotConnInfo) { connected.Add(1) },
			WroteHeaders: func() { sent.Add(1) },
		}), time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, url, body)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil && method == "POST" && connected.Load() > 0 && sent.Load() == 0 && ctx.Err() == nil {
			unsent.Add(1)
			return nil
		}
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		switch {
		case err != nil:
			return fmt.Errorf("after %d bytes of the body: %w", len(got), err)
		case resp.ProtoMajor != 2 || resp.StatusCode != 200 || !bytes.Equal(got, want):
			return fmt.Errorf("got %s %s with %d bytes, want HTTP/2, 200 and %d bytes", resp.Proto, resp.Status, len(got), len(want))
		case sent.Load() > 1:
			again.Add(1)
		}
		if method == "POST" {
			uploads.Add(1)
		}
		requests.Add(1)
		return nil
	}
	for _, base := range []string{"https://" + over, "http://" + b.Address} {
		transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: config.Clone()}
		transport.Protocols.SetHTTP2(true)
		transport.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport}
		for i := range 8 {
			method, path, pause := "GET", "/fixed/5000", time.Duration(0)
			if i%2 == 1 {
				method, path, pause = "POST", "/echo", time.Duration(i)*10*time.Millisecond // a second and more in all
			}
			asking.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := ask(client, method, base+path, pause); err != nil {
						select {
						case problems <- fmt.Errorf("%s %s: %w", method, base+path, err):
						default:
						}
						time.Sleep(10 * time.Millisecond)
					}
				}
			})
		}
	}
	end := sync.OnceFunc(func() { close(stop); asking.Wait() })
	t.Cleanup(end)
	await.Until(t, "requests", func() bool { return uploads.Load() > 4 })
	upgrades := tier.Times(t, "upgrades", 0, 1, 3)
	for i := range upgrades {
		before := requests.Load()
		u := b.Upgrade()
		if c := u.Predecessor.Connections; u.Predecessor.Moved+c.Announced+c.Client < 2 || c.Cut+c.Error+c.Timeout > 0 {
			t.Errorf("upgrade %d: got %+v, want connections that migrate or are sent a GOAWAY, none in disorder", i+1, u.Predecessor)
		}
		await.Until(t, "requests of the successor", func() bool { return requests.Load() > before+20 })
	}
	end()
	close(problems)
	for err := range problems {
		t.Error(err)
	}
	if n := again.Load(); n != 0 {
		t.Errorf("%d requests were made again, want none", n)
	}
	t.Logf("%d requests, %d of them with a body that can be sent once only, in %d upgrades; %d of these were not sent at first",
		requests.Load(), uploads.Load(), upgrades, unsent.Load())
}

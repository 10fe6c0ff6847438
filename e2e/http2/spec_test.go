package http2

import (
	"bytes"
	"crypto/tls"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The specification of HTTP/2, asked by h2spec with every case that it has; and what net/http makes of it
// by itself, since that is what speaks HTTP/2 here.
//
// Go builds h2spec, from the versions that testdata/h2spec names.

// knownFailures are the cases that net/http fails, here as by itself: over "both", or "plain" only. All but one
// are about clients that break the rules.
var knownFailures = map[string]string{
	// What is not the preface of HTTP/2 is taken for HTTP/1.1, and answered 400 in that. It cannot happen over
	// TLS, where the client has chosen the protocol before.
	"http2/3.5: Sends invalid connection preface": "plain",
	// RFC 9113, section 6.5.3, has values processed in the order in which they appear. Twice the same setting in
	// one frame is an error to net/http, as a sign of abuse.
	"http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE": "both",
	// Malformed requests are answered 400 with an explanation, where section 8.1.1 wants a stream error; it allows
	// a response before that.
	"http2/8.1.2.2: Sends a HEADERS frame that contains the connection-specific header field":                     "both",
	`http2/8.1.2.2: Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`: "both",
}

// limitsOfOurOwn are cases that net/http fails and Baton does not.
var limitsOfOurOwn = []string{
	// h2spec holds that nobody takes frames larger than 16 KiB. net/http announces 1 MiB.
	"http2/4.2: Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
}

// ownFailures are cases that Baton fails and net/http does not.
var ownFailures = []string{
	// Baton sets SETTINGS_HEADER_TABLE_SIZE to 0, so that connections can migrate, and has net/http accept more.
	// A client that wants a table all the same works, and does not migrate.
	"hpack/6.3: Sends a dynamic table size update larger than the value of SETTINGS_HEADER_TABLE_SIZE",
}

func TestHTTP2Spec(t *testing.T) {
	tier.Slow(t, "runs h2spec against four servers")
	t.Parallel()
	h2spec := buildH2spec(t)
	const cases = 146 // of which h2spec knows

	slowly := http.HandlerFunc(slowHello)
	cert, key := certificate.Certificate(t)
	b := service.Start(t, service.Listen("HOST:PORT", "tls:HOST:PORT"), service.Args("-tls-cert", cert, "-tls-key", key, "-proxy", "/="+backend.Start(t, slowly)))
	_, secure := service.SplitAddress(strings.TrimPrefix(b.Setup.Listen[1], "tls:"))
	plainAlone, secureAlone := netHTTP(t, slowly, cert, key)

	for name, server := range map[string]struct {
		address       string
		secure, alone bool
	}{
		"Baton": {b.Address, false, false}, "Baton over TLS": {secure, true, false},
		"net/http": {plainAlone, false, true}, "net/http over TLS": {secureAlone, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, failed := runH2spec(t, h2spec, func() string { return server.address }, server.secure)
			if asked != cases {
				t.Errorf("h2spec has asked %d cases, want %d", asked, cases)
			}
			expected := make(map[string]bool)
			for name, where := range knownFailures {
				expected[name] = where == "both" || !server.secure
			}
			for _, name := range limitsOfOurOwn {
				expected[name] = server.alone
			}
			for _, name := range ownFailures {
				expected[name] = !server.alone
			}
			for name, why := range failed {
				if !expected[name] {
					t.Errorf("%s\nwanted, and got last:\n%s", name, why)
				}
			}
			for name, should := range expected {
				if _, does := failed[name]; should && !does {
					t.Errorf("%s: it passes; no need to know of it any more", name)
				}
			}
		})
	}
}

// slowHello takes its time to answer: some cases are about streams that are open still.
func slowHello(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	time.Sleep(20 * time.Millisecond)
	io.WriteString(w, "hello, h2spec\n")
}

// buildH2spec builds h2spec, or skips the test where that cannot be done.
func buildH2spec(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "h2spec")
	cmd := exec.Command("go", "build", "-o", path, "github.com/summerwind/h2spec/cmd/h2spec")
	cmd.Dir = "../testdata/h2spec"
	if out, err := cmd.CombinedOutput(); err != nil {
		tier.Needs(t, "h2spec", fmt.Sprintf("let go build fetch it: %v\n%s", err, out))
	}
	return path
}

// netHTTP serves h by net/http alone.
func netHTTP(t *testing.T, h http.Handler, certFile, keyFile string) (plain, secure string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	host := service.Loopback()
	for _, address := range []*string{&plain, &secure} {
		ln, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		*address = ln.Addr().String()
		server := &http.Server{Handler: h, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0),
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetHTTP2(true)
		server.Protocols.SetUnencryptedHTTP2(true)
		var serving sync.WaitGroup
		serving.Go(func() {
			if address == &secure {
				server.ServeTLS(ln, "", "")
			} else {
				server.Serve(ln)
			}
		})
		t.Cleanup(func() { server.Close(); serving.Wait() })
	}
	return plain, secure
}

// runH2spec returns how many cases there were, and of those that failed what was wanted and what came. The address
// is asked for each part of the specification: they are tested side by side, as most of the time is spent on waiting
// for the end of connections.
func runH2spec(t *testing.T, path string, address func() string, secure bool) (asked int, failed map[string]string) {
	t.Helper()
	failed = make(map[string]string)
	var mu sync.Mutex
	var running sync.WaitGroup
	defer running.Wait()
	dir := t.TempDir()
	for _, part := range [][]string{{"generic"}, {"hpack", "http2/3", "http2/4"}, {"http2/5"}, {"http2/6", "http2/7"}, {"http2/8"}} {
		host, port, _ := net.SplitHostPort(address())
		running.Go(func() {
			report := filepath.Join(dir, part[0][:4]+filepath.Base(part[0])+".xml")
			args := append([]string{"-S", "-o", "3", "-h", host, "-p", port, "-j", report}, part...)
			if secure {
				args = append(args, "-t", "-k")
			}
			out, _ := exec.Command(path, args...).CombinedOutput() // it fails if a case does
			content, err := os.ReadFile(report)
			if err != nil {
				t.Errorf("h2spec has not reported: %v\n%s", err, bytes.TrimSpace(out))
				return
			}
			var got struct {
				Suites []struct {
					Cases []struct {
						Package string  `xml:"package,attr"`
						Name    string  `xml:"classname,attr"`
						Failure *string `xml:"failure"`
						Error   *string `xml:"error"`
						Skipped *string `xml:"skipped"`
					} `xml:"testcase"`
				} `xml:"testsuite"`
			}
			if err := xml.Unmarshal(content, &got); err != nil {
				t.Errorf("%s: %v", report, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, suite := range got.Suites {
				for _, c := range suite.Cases {
					asked++
					for _, why := range []*string{c.Failure, c.Error, c.Skipped} {
						if why != nil {
							failed[c.Package+": "+c.Name] = *why
						}
					}
				}
			}
		})
	}
	running.Wait()
	return asked, failed
}

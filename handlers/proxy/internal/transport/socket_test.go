package transport

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

// echo answers with the body that it gets, at once or when it has all of it.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Early") != "" {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		io.Copy(w, r.Body)
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Write(body)
}

func TestUnixAndTLS(t *testing.T) {
	socket := t.TempDir() + "/socket"
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	overUnix := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	overUnix.Listener.Close()
	overUnix.Listener = listener
	overUnix.Start()
	t.Cleanup(overUnix.Close)
	secure := httptest.NewTLSServer(http.HandlerFunc(echo))
	t.Cleanup(secure.Close)
	at, _ := url.Parse(secure.URL)
	for name, options := range map[string]Options{
		"unix": {Network: "unix", Address: socket, HeaderTimeout: time.Minute},
		"TLS":  {Network: "tcp", Address: at.Host, HeaderTimeout: time.Minute, TLS: secure.Client().Transport.(*http.Transport).TLSClientConfig.Clone()},
	} {
		t.Run(name, func(t *testing.T) {
			if options.TLS != nil {
				options.TLS.ServerName, options.TLS.NextProtos = "example.com", nil
			}
			b := &backend{transport: New(options)}
			defer b.transport.KeepIdle(false)
			for range 3 {
				body := strings.Repeat("body", 100_000)
				_, got, err := b.get(t, request(t, "POST", strings.NewReader(body)))
				if got != body {
					t.Fatalf("got %d bytes, %v, want %d", len(got), err, len(body))
				}
				testserver.Equal(t, "idle connections", len(b.transport.idle.conns), 1)
			}
		})
	}
	t.Run("TLS that nobody trusts", func(t *testing.T) {
		untrusting := New(Options{Network: "tcp", Address: at.Host, HeaderTimeout: time.Minute, TLS: &tls.Config{ServerName: "example.com"}})
		testserver.Equal(t, "progress", ProgressOf(untrusting.Probe(t.Context())), Unsent)
	})
}

// What a backend sends behind its response is not taken for the next one, even if it is in the same
// record of TLS and was not read.
func TestMoreInTheRecord(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, in, _ := http.NewResponseController(w).Hijack()
		defer conn.Close()
		header := "HTTP/1.1 200 OK\r\nContent-Length: 3800\r\n"
		header += "X: " + strings.Repeat("x", 4096-3800-len(header)-len("X: \r\n\r\n")) + "\r\n\r\n" // as large as the buffer with the body
		io.WriteString(conn, header+strings.Repeat("a", 3800)+plain)
		if _, err := readRequest(in.Reader); err == nil {
			t.Error("the connection is used again")
		}
	}))
	server.TLS = &tls.Config{DynamicRecordSizingDisabled: true}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	b := &backend{transport: New(Options{Network: "tcp", Address: server.Listener.Addr().String(), HeaderTimeout: time.Minute, TLS: &tls.Config{ServerName: "example.com", RootCAs: roots}})}
	for range 2 {
		_, body, err := b.get(t, request(t, "GET", nil))
		testserver.Equal(t, "error", err, nil)
		testserver.Equal(t, "bytes", len(body), 3800)
	}
	b.transport.KeepIdle(false)
}

// Many requests at once do not get each other's responses.
func TestManyAtOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(server.Close)
	b := &backend{transport: New(Options{Network: "tcp", Address: server.Listener.Addr().String(), HeaderTimeout: time.Minute})}
	defer b.transport.KeepIdle(false)
	var all sync.WaitGroup
	for seed := range uint64(8) {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, 0))
			for range 100 {
				body := make([]byte, 1<<random.IntN(18))
				for i := range body {
					body[i] = byte(random.Uint32())
				}
				r := request(t, "POST", bytes.NewReader(body))
				if random.IntN(2) == 0 {
					r.ContentLength = -1
				}
				if random.IntN(2) == 0 {
					r.Header.Set("X-Early", "1")
				}
				response, err := b.transport.RoundTrip(r)
				if err != nil {
					t.Error(err)
					return
				}
				if random.IntN(10) == 0 {
					response.Body.Close()
					continue
				}
				got, err := io.ReadAll(response.Body)
				if sha256.Sum256(got) != sha256.Sum256(body) {
					t.Errorf("got %d bytes, %v, want the %d that were sent", len(got), err, len(body))
				}
				response.Body.Close()
			}
		})
	}
	all.Wait()
}

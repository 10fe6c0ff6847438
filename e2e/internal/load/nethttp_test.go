package load

import (
	"crypto/tls"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

// All habits at once, over TLS and without, against a server that does everything right.
func TestClientsOfEveryProtocolAgainstNetHTTP(t *testing.T) {
	certFile, keyFile := certificate.Certificate(t)
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{true: "TLS", false: "plaintext"}[secure], func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := Load{Network: "tcp", Address: ln.Addr().String(), Exchanges: exchange.Echo(""), Pause: time.Millisecond}
			if secure {
				pair, err := tls.LoadX509KeyPair(certFile, keyFile)
				if err != nil {
					t.Fatal(err)
				}
				ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}})
				l.TLS = certificate.Trusting(t, []string{certFile})
			}
			srv := &http.Server{Handler: http.HandlerFunc(backend.Echo), Protocols: new(http.Protocols)}
			srv.Protocols.SetHTTP1(true)
			srv.Protocols.SetHTTP2(true)
			srv.Protocols.SetUnencryptedHTTP2(true)
			done := make(chan struct{})
			go func() { defer close(done); srv.Serve(ln) }()
			t.Cleanup(func() { srv.Close(); <-done })

			l.Clients = [Habits]int{BackToBack: 2, Pausing: 4, PerRequest: 1, PerRequestEnd: 1, Silent: 4, SilentAfter: 4,
				Streams: 2, StreamsPausing: 4, StreamsSilent: 4}
			counts, stop := Start(t, l)
			await.Until(t, "requests of each habit", func() bool {
				for _, h := range []Habit{BackToBack, Pausing, PerRequest, PerRequestEnd, Streams, StreamsPausing} {
					if counts.Answered[h].Load() < 20 {
						return false
					}
				}
				return counts.Answered[SilentAfter].Load() == 4 && counts.Answered[StreamsSilent].Load() == 4 && counts.Connections[StreamsSilent].Load() == 4
			})
			stop()
			if counts.Failures()+counts.Refused() != 0 {
				t.Error(counts)
			}
			if n := len(counts.Silences()); n != 12 {
				t.Errorf("idle connections: got %d, want 12", n)
			}
			t.Log(counts)
		})
	}
}

// An end over TLS that no close_notify has announced is no orderly one.
func TestClientOverTLSSeesHowAConnectionEnds(t *testing.T) {
	certFile, keyFile := certificate.Certificate(t)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		end  func(*tls.Conn) error
		want http1.Ending
	}{
		{"with close_notify", (*tls.Conn).Close, http1.Fin},
		{"without", func(c *tls.Conn) error { return c.NetConn().Close() }, http1.Rst},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			ended := make(chan error, 1)
			go func() {
				nc, err := ln.Accept()
				if err == nil {
					c := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{pair}})
					if err = c.Handshake(); err == nil {
						err = tt.end(c)
					}
				}
				ended <- err
			}()
			c, err := http1.DialTLS("tcp", ln.Addr().String(), 5*time.Second, certificate.Trusting(t, []string{certFile}))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := c.AwaitClose(time.Minute); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// All habits at once against a server that does everything right.
func TestClientAgainstNetHTTP(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			ln, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			backend.Serve(t, ln, http.HandlerFunc(backend.Echo))

			l := Load{Network: network, Address: ln.Addr().String(), Exchanges: exchange.Echo(""), Pause: time.Millisecond}
			l.Clients = [Habits]int{BackToBack: 2, Pausing: 8, PerRequest: 2, PerRequestEnd: 2, Silent: 4, SilentAfter: 4}
			counts, stop := Start(t, l)
			await.Until(t, "requests of each habit", func() bool {
				for _, h := range []Habit{BackToBack, Pausing, PerRequest, PerRequestEnd} {
					if counts.Answered[h].Load() < 100 {
						return false
					}
				}
				return counts.Answered[SilentAfter].Load() == 4
			})
			stop()
			if counts.Failures() != 0 {
				t.Error(counts)
			}
			if n := len(counts.Silences()); n != 8 {
				t.Errorf("idle connections: got %d, want 8", n)
			}
			t.Log(counts)
		})
	}
}

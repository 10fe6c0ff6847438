package server_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/baton/server"
)

// RFC 9112, section 6.1: a request whose length is said in two ways ends its connection.
func TestRequestOfTwoLengths(t *testing.T) {
	t.Parallel()
	const next = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, request := range map[string]string{
		"chunked beside a length": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"a length beside chunked": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
		"with a body":             "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
		"chunked in HTTP/1.0":     "POST / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"both in HTTP/1.0":        "POST / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"folded length":           "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 5\r\n\r\nabcde",
		"as the second":           "GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"behind a body":           "POST /plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\nT: v\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"behind an upgrade":       "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	} {
		for _, size := range []int{1, 7, 1000} {
			h := new(early)
			s := serve(t, server.Options{Handler: h})
			c := s.dial()
			for rest := request + next; rest != ""; {
				n := min(size, len(rest))
				io.WriteString(c, rest[:n])
				rest = rest[n:]
			}
			wantServed := strings.Count(request, "Host") - 1
			for range wantServed {
				if resp, _ := c.answer(); resp.StatusCode != http.StatusOK {
					t.Errorf("%s, in pieces of %d: got %d for the request before", name, size, resp.StatusCode)
				}
			}
			if resp, _ := c.answer(); resp.StatusCode != http.StatusBadRequest || !resp.Close {
				t.Errorf("%s, in pieces of %d: got %d, close %v, want 400 and the end", name, size, resp.StatusCode, resp.Close)
			}
			c.Close()
			<-s.drain(patience, none)
			h.readers.Wait()
			if got := h.list(); len(got) != wantServed {
				t.Errorf("%s, in pieces of %d: the handler got %q, want %d", name, size, got, wantServed)
			}
		}
	}
}

// RFC 9112, section 2.2.
func TestEmptyLinesBeforeARequest(t *testing.T) {
	t.Parallel()
	h := new(early)
	s := serve(t, server.Options{Handler: h})
	for _, sent := range []string{"\r\n", "\n", "\r\n\r\n\r\n"} {
		c := s.dial()
		for range 2 {
			c.send(sent + "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + sent + "PUT /closed HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\r\n\r\n" + sent)
			for range 2 {
				if resp, _ := c.answer(); resp.StatusCode != http.StatusOK || resp.Close {
					t.Errorf("after %q: got %d, close %v, want 200", sent, resp.StatusCode, resp.Close)
				}
			}
		}
		for _, b := range sent + "GET / HTTP/1.1\r\nHost: x\r\n\r\n" {
			c.send(string(b))
		}
		if resp, _ := c.answer(); resp.StatusCode != http.StatusOK {
			t.Errorf("after %q in pieces: got %d, want 200", sent, resp.StatusCode)
		}
	}
	<-s.drain(patience, none)
}

// OPTIONS * is the handler's, and so it counts, and ends its connection in a drain.
func TestOptionsOfTheServer(t *testing.T) {
	g := newGate()
	s := serve(t, server.Options{DisableMigration: true, Handler: g})
	c := s.dial()
	c.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
	<-g.entered
	drained := s.drain(patience, all)
	s.awaitDraining()
	close(g.open)
	if resp, _ := c.answer(); resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("got %d, close %v, want 200 and the end", resp.StatusCode, resp.Close)
	}
	if got := <-drained; got.Requests != 1 {
		t.Errorf("got %d requests in the drain, want 1", got.Requests)
	}
}

// What a client has sent before it could know that its connection ends is answered, and
// the last answer tells it.
func TestDrainAnswersWhatHasArrived(t *testing.T) {
	t.Parallel()
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	long := strings.Replace(get, "\r\n\r\n", "\r\nX: "+strings.Repeat("x", 1000)+"\r\n\r\n", 1)
	post := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde"
	for name, test := range map[string]struct {
		sent  []string // in a segment each
		later []string // when the first one is answered
		want  int
	}{
		"two in one segment":    {[]string{get + get}, nil, 2},
		"two in two":            {[]string{get, get}, nil, 2},
		"many":                  {[]string{strings.Repeat(get, 100)}, nil, 100},
		"more than is buffered": {[]string{strings.Repeat(long, 20)}, nil, 20},
		"in many segments":      {strings.Split(strings.Repeat(long+"|", 19)+long, "|"), nil, 20},
		"with bodies":           {[]string{post + post + get}, nil, 3},
		"half":                  {[]string{get + get[:10]}, []string{get[10:]}, 2},
		"what comes later":      {[]string{get + get}, []string{get}, 2},
		"one":                   {[]string{get}, nil, 1},
	} {
		for _, protocol := range []string{"plaintext", "TLS 1.2", "TLS 1.3"} {
			t.Run(name+", "+protocol, func(t *testing.T) {
				t.Parallel()
				g := newGate()
				opts := server.Options{DisableMigration: true, Handler: g}
				var s *served
				var c *client
				if protocol == "plaintext" {
					s = serve(t, opts)
					c = s.dial()
				} else {
					secure := serveTLS(t, opts)
					s = secure.served
					config := secure.signed.Client()
					config.NextProtos, config.MaxVersion = nil, map[bool]uint16{true: tls.VersionTLS12}[protocol == "TLS 1.2"]
					c = s.dial().shake(config)
				}
				for _, segment := range test.sent {
					c.send(segment)
				}
				<-g.entered
				c.awaitArrival()
				drained := s.drain(patience, all)
				s.awaitDraining()
				close(g.open)
				for n := 1; ; n++ {
					resp, err := http.ReadResponse(c.in, nil)
					if err != nil {
						t.Fatalf("answer %d: %v", n, err)
					}
					io.Copy(io.Discard, resp.Body)
					if n == 1 {
						for _, segment := range test.later {
							c.send(segment)
						}
					}
					if resp.Close != (n == test.want) {
						t.Errorf("answer %d of %d: got close %v", n, test.want, resp.Close)
					}
					if resp.Close || n > test.want {
						break
					}
				}
				c.Close()
				<-drained
			})
		}
	}
}

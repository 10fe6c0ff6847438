package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
)

// A header block has the time of a header, however it is spread over it.
func TestHTTP2SlowHeader(t *testing.T) {
	t.Parallel()
	const timeout = 400 * time.Millisecond
	empty := rawFrame(0, http2.FrameContinuation, 0, 1, nil)
	slow := map[string]func(c *http2Client){
		"bytes of a HEADERS": func(c *http2Client) {
			keepSending(c, timeout/8, func(i int) []byte {
				return append(rawFrame(1<<10, http2.FrameHeaders, 4, 1, nil), make([]byte, 1<<10)...)[i:][:1]
			})
		},
		"empty CONTINUATIONs": func(c *http2Client) {
			c.Conn.Write(rawFrame(0, http2.FrameHeaders, 0, 1, nil))
			keepSending(c, timeout/8, func(i int) []byte { return empty })
		},
		"bytes of empty CONTINUATIONs": func(c *http2Client) {
			c.Conn.Write(rawFrame(0, http2.FrameHeaders, 0, 1, nil))
			keepSending(c, timeout/8, func(i int) []byte { return empty[i%len(empty):][:1] })
		},
		"a flood of empty CONTINUATIONs": func(c *http2Client) {
			c.Conn.Write(rawFrame(0, http2.FrameHeaders, 0, 1, nil))
			keepSending(c, 0, func(i int) []byte { return bytes.Repeat(empty, 1000) })
		},
		"bytes of SETTINGS": func(c *http2Client) {
			keepSending(c, timeout/8, func(i int) []byte {
				return append(rawFrame(600, http2.FrameSettings, 0, 0, nil), make([]byte, 600)...)[i:][:1]
			})
		},
	}
	both(t, server.Options{ReadHeaderTimeout: timeout, ReadBodyTimeout: patience, Handler: http.HandlerFunc(hello), Logger: slog.New(slog.DiscardHandler)},
		func(t *testing.T, s *served, dial func() *http2Client) {
			ended := make(chan string, len(slow))
			for name, send := range slow {
				c := dial()
				c.await("the server's settings", func() bool { return len(c.settings) > 0 })
				go func() { send(c); ended <- name }()
			}
			await(t, "the connections", func() bool { return s.Accepted() == uint64(len(slow)) })
			begin := time.Now()
			drained := s.drain(2*patience, all)
			for range slow {
				name := <-ended
				if took := time.Since(begin); took > timeout+time.Second {
					t.Errorf("%s: ended after %v, want the time of a header, and a second for what is still sent", name, took)
				}
			}
			if d := <-drained; d.Connections.DrainTimeout != 0 {
				t.Errorf("got %+v, want none closed forcibly", d)
			}
		})
}

// Each header has that time anew, and the next one no less for what others took.
func TestHTTP2HeadersInPieces(t *testing.T) {
	t.Parallel()
	const timeout = 500 * time.Millisecond
	both(t, server.Options{ReadHeaderTimeout: timeout, Handler: http.HandlerFunc(hello)}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		for stream := uint32(1); stream <= 5; stream += 2 {
			c.fields.Reset()
			c.encode("GET", "/")
			n := c.fields.Len() / 2
			c.Conn.Write(rawFrame(n, http2.FrameHeaders, 1, stream, c.fields.Bytes()[:n]))
			time.Sleep(timeout * 6 / 10)
			c.Conn.Write(rawFrame(c.fields.Len()-n, http2.FrameContinuation, 4, stream, c.fields.Bytes()[n:]))
			c.gets(stream, "hello")
		}
		<-s.drain(patience, all)
	})
}

// The bytes of a body may take longer than a header, each of them, and all of them
// longer than a body may pause.
func TestHTTP2SlowData(t *testing.T) {
	t.Parallel()
	const header, pause, body = 100 * time.Millisecond, 200 * time.Millisecond, 800 * time.Millisecond
	both(t, server.Options{ReadHeaderTimeout: header, ReadBodyTimeout: body, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.open(1, "POST", "/", false)
		const text = "sure"
		begin := time.Now()
		c.Conn.Write(rawFrame(len(text), http2.FrameData, 1, 1, nil))
		for _, b := range []byte(text) {
			time.Sleep(pause + 10*time.Millisecond)
			c.Conn.Write([]byte{b})
		}
		if took := time.Since(begin); took < body {
			t.Fatalf("%v is not slow", took)
		}
		c.gets(1, text)
		<-s.drain(patience, all)
	})
}

// The pause before a frame and the time that it takes are not one pause.
func TestHTTP2SlowDataAfterPause(t *testing.T) {
	t.Parallel()
	const timeout = 800 * time.Millisecond
	both(t, server.Options{ReadBodyTimeout: timeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %v", body, err)
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.open(1, "POST", "/", false)
		await(t, "the request", func() bool { return s.Load().Requests == 1 })
		time.Sleep(timeout * 15 / 16)
		c.Conn.Write(rawFrame(3, http2.FrameData, http2.FlagDataEndStream, 1, nil))
		for _, b := range []byte("abc") {
			time.Sleep(timeout / 8)
			c.Conn.Write([]byte{b})
		}
		c.gets(1, "abc <nil>")
		<-s.drain(patience, all)
	})
}

// A client may pause in a body for the body timeout, whatever goes on in other
// streams; unless the handler knows better.
func TestHTTP2PauseInBody(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	both(t, server.Options{ReadBodyTimeout: timeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		switch r.URL.Path {
		case "/patient":
			control.SetReadDeadline(time.Now().Add(patience))
		case "/none":
			control.SetReadDeadline(time.Time{})
		case "/impatient":
			control.SetReadDeadline(time.Now().Add(timeout / 4))
		case "/later":
			r.Body.Read(make([]byte, 1))
			time.Sleep(2 * timeout) // is not the client's pause
		}
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %t", body, errors.Is(err, os.ErrDeadlineExceeded))
		if err != nil {
			if _, again := r.Body.Read(make([]byte, 1)); again == nil {
				t.Error("a body goes on that was broken off")
			}
		}
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		write := func(stream uint32, end bool, text string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if err := c.WriteData(stream, end, []byte(text)); err != nil {
				t.Error(err)
			}
		}
		begin := time.Now()
		c.open(1, "POST", "/", false)
		c.open(3, "POST", "/patient", false)
		c.open(5, "POST", "/none", false)
		c.open(7, "POST", "/later", false)
		c.open(9, "POST", "/", false) // goes on
		c.open(11, "POST", "/impatient", false)
		for stream := uint32(1); stream <= 11; stream += 2 {
			write(stream, stream == 7, "a")
		}
		for range 8 {
			time.Sleep(timeout / 4)
			write(9, false, "b")
		}
		write(9, true, "c")
		write(3, true, "z")
		c.gets(1, "a true")
		c.gets(5, "a true")
		c.gets(11, "a true")
		c.gets(7, " false")
		c.gets(9, "abbbbbbbbc false")
		c.gets(3, "az false")
		if took := time.Since(begin); took < 2*timeout || took > 3*timeout {
			t.Errorf("took %v", took)
		}

		// One that has begun to pause when the drain begins is gone a second after.
		c.open(13, "POST", "/", false)
		await(t, "the request", func() bool { return s.Load().Requests == 1 })
		begin = time.Now()
		drained := s.drain(2*patience, all)
		c.gets(13, " true")
		c.closes()
		if took := time.Since(begin); took > timeout+1500*time.Millisecond {
			t.Errorf("the drain took %v, want the body timeout and a second", took)
		}
		if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v, want one sent Connection: close", d)
		}
	})
}

// A body of no length that does not end is one as well.
func TestHTTP2EmptyBodyThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	both(t, server.Options{ReadBodyTimeout: 100 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %t", r.ContentLength, errors.Is(err, os.ErrDeadlineExceeded))
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.open(1, "POST", "/", false, "content-length", "0")
		c.gets(1, "0 true")
		<-s.drain(patience, all)
	})
}

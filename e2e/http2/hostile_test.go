package http2

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
)

// Clients of HTTP/2 that break its rules, and what reaches a backend of theirs.

// newFramer speaks HTTP/2 by prior knowledge.
func newFramer(t *testing.T, b *service.Baton) (*http2.Framer, net.Conn) {
	t.Helper()
	c, err := net.Dial(b.Network, b.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.WriteSettings()
	return f, c
}

// block returns the header block of a request. It uses no table.
func block(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSizeLimit(0)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// Who opens streams and resets them at once is refused before it has cost the backend more than a page would.
func TestHTTP2RapidReset(t *testing.T) {
	t.Parallel()
	const atOnce = 1000 // cancelled requests
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dialed atomic.Int64
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				dialed.Add(1)
			}
		},
	}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	b := service.Start(t, service.Args("-proxy", "/="+"http://"+ln.Addr().String()))
	f, c := newFramer(t, b)
	request := block(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/")
	sent := make(chan int)
	go func() {
		var pair bytes.Buffer
		w := http2.NewFramer(&pair, nil)
		for stream := uint32(1); ; stream += 2 {
			pair.Reset()
			w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: request, EndHeaders: true, EndStream: true})
			w.WriteRSTStream(stream, http2.ErrCodeCancel)
			if _, err := c.Write(pair.Bytes()); err != nil {
				sent <- int(stream) / 2
				return
			}
		}
	}()
	for {
		got, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("got %v, want a GOAWAY", err)
		}
		if g, ok := got.(*http2.GoAwayFrame); ok {
			if g.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("got a GOAWAY with %v, want ENHANCE_YOUR_CALM", g.ErrCode)
			}
			break
		}
	}
	if _, err = io.Copy(io.Discard, c); http1.EndingOf(err) == http1.StillOn {
		t.Errorf("the connection is still open: %v", err)
	}
	c.Close()
	n := <-sent
	if got := dialed.Load(); got > 2*atOnce {
		t.Errorf("%d connections to the backend, want %d at most", got, 2*atOnce)
	}
	t.Logf("%d streams sent, %d connections to the backend", n, dialed.Load())
}

// A backend gets no request whole whose body is not as long as its client has declared.
func TestHTTP2DeclaredLength(t *testing.T) {
	t.Parallel()
	var whole atomic.Int64
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			whole.Add(1)
		}
	}))))
	post := []string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/"}
	for name, test := range map[string]struct {
		fields []string
		data   string // "": END_STREAM is in the HEADERS
	}{
		"no body":            {[]string{"content-length", "5"}, ""},
		"shorter":            {[]string{"content-length", "5"}, "hell"},
		"longer":             {[]string{"content-length", "5"}, "hello!"},
		"two lengths":        {[]string{"content-length", "5", "content-length", "6"}, "hello"},
		"not a number":       {[]string{"content-length", "five"}, "hello"},
		"a list of the same": {[]string{"content-length", "5, 5"}, "hello"},
	} {
		f, c := newFramer(t, b)
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(append(post[:8:8], test.fields...)...),
			EndHeaders: true, EndStream: test.data == ""})
		if test.data != "" {
			f.WriteData(1, true, []byte(test.data))
		}
		for over := false; !over; {
			got, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch got := got.(type) {
			case *http2.MetaHeadersFrame:
				if status := got.PseudoValue("status"); status != "400" {
					t.Errorf("%s: got status %s, want 400", name, status)
				}
				over = true
			case *http2.RSTStreamFrame:
				if got.ErrCode != http2.ErrCodeProtocol {
					t.Errorf("%s: got a reset with %v, want PROTOCOL_ERROR", name, got.ErrCode)
				}
				over = true
			}
		}
		c.Close()
	}
	if n := whole.Load(); n != 0 {
		t.Errorf("the backend got %d requests whole", n)
	}
}

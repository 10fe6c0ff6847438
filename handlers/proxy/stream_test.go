package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/handlers/internal/live"
	"example.com/baton/handlers/internal/testserver"
)

// wholeEvents returns how many bytes of an event stream a reader needs that gets no
// more than text: all but a last event without its blank line.
func wholeEvents(text string) (whole int) {
	hasLines := false
	for at := 0; ; {
		n := strings.IndexAny(text[at:], "\r\n")
		if n < 0 {
			return whole
		}
		line := text[at : at+n]
		if at += n + 1; strings.HasPrefix(text[at-1:], "\r\n") {
			at++
		}
		if hasLines = line != "" && (hasLines || line[0] != ':'); !hasLines {
			whole = at
		}
	}
}

func FuzzEventBounds(f *testing.F) {
	for seed, text := range []string{
		"", "data: 1\n\n", "data: 1\n\ndata: 2", "data: 1\r\n\r\n: comment\r\ndata: 2\r\n\r\n", "data: 1\r\rdata: 2\r",
		": ping\n\n: ping\n", "id: 7\ndata: a\ndata: b\n\nretry: 5\n", "\n\n\r\r\n", "data: 1\n\r\n: x\n", ":\n:\ndata\n:\n\n", "data:1\n\r",
	} {
		f.Add(text, uint64(seed))
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		var (
			e    eventBounds
			at   int
			want = wholeEvents(text)
			got  int
		)
		for _, piece := range pieces([]byte(text), seed) {
			if whole := e.follow(piece); whole >= 0 {
				got = at + whole
			}
			at += len(piece)
			if prefix := text[:at]; e.isBetween() != (wholeEvents(prefix) == at) {
				t.Fatalf("after %q: between events %v, want %v", prefix, e.isBetween(), wholeEvents(prefix) == at)
			}
		}
		testserver.Equal(t, fmt.Sprintf("bytes of whole events in %q", text), got, want)
	})
}

// streaming is a backend that sends what the test tells it to.
type streaming struct {
	kind string
	send chan string
	gone chan struct{} // closed when its client has gone
}

func (s *streaming) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", s.kind)
	w.(http.Flusher).Flush()
	for {
		select {
		case text := <-s.send:
			io.WriteString(w, text)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			close(s.gone)
			return
		}
	}
}

// stream begins a stream through a proxy.
func beginStream(t *testing.T, kind string) (backend *streaming, d *drain, body io.Reader) {
	t.Helper()
	backend = &streaming{kind: kind, send: make(chan string), gone: make(chan struct{})}
	d = new(drain)
	server, _, _ := through(t, backend, Options{OnDrain: d.onDrain, StreamGrace: 7 * time.Second})
	request, _ := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return backend, d, response.Body
}

func hear(t *testing.T, body io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(body, got)
	if string(got[:n]) != want {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

func TestStreamEndsBetweenEvents(t *testing.T) {
	backend, d, body := beginStream(t, "text/event-stream; charset=utf-8")
	backend.send <- "data: 1\n\ndata: 2\n\n"
	hear(t, body, "data: 1\n\ndata: 2\n\n")
	testserver.Equal(t, "grace", d.grace[0], 7*time.Second)
	began := time.Now()
	d.say(t, time.Minute)
	rest, err := io.ReadAll(body)
	testserver.Equal(t, "rest", string(rest), "")
	testserver.Equal(t, "ends cleanly", err, nil)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("end took %v, want it at once and not with the deadline of the drain", took)
	}
	<-backend.gone
	testserver.Equal(t, "registered after it", d.open(), 0)
}

// An event that has begun is awaited, if that takes no time.
func TestStreamEndsAfterAnEvent(t *testing.T) {
	backend, d, body := beginStream(t, "text/event-stream")
	backend.send <- "data: 1\n"
	hear(t, body, "data: 1\n")
	said := make(chan time.Duration, 1)
	go func() { said <- d.say(t, time.Minute) }()
	await(t, "the onDrain", func() bool { return d.open() == 0 })
	backend.send <- "data: more\n\n"
	rest, err := io.ReadAll(body)
	testserver.Equal(t, "rest", string(rest), "data: more\n\n")
	testserver.Equal(t, "ends cleanly", err, nil)
	<-said
}

func TestStreamEndsWithinAnEvent(t *testing.T) {
	backend, d, body := beginStream(t, "text/event-stream")
	backend.send <- "data: 1\n"
	hear(t, body, "data: 1\n")
	began := time.Now()
	go d.say(t, time.Minute)
	rest, err := io.ReadAll(body)
	testserver.Equal(t, "rest", string(rest), "")
	testserver.Equal(t, "ends cleanly", err, nil)
	if took := time.Since(began); took < eventPatience || took > 30*time.Second {
		t.Errorf("end took %v, want the patience of %v", took, eventPatience)
	}
	d.busy.Wait()
}

// last is a body whose blocked Read brings something in the very moment in which it is closed.
type last struct {
	text    string
	reading chan struct{}
	closed  chan struct{}
}

func (l *last) Read(p []byte) (int, error) {
	close(l.reading)
	<-l.closed
	return copy(p, l.text), nil
}

func (l *last) Close() error { close(l.closed); return nil }

func TestStreamLeavesWhileAnEventComes(t *testing.T) {
	for text, want := range map[string]string{"data: 1": "", "data: 1\n\ndata: 2\n": "data: 1\n\n", "data: 1\n\n": "data: 1\n\n"} {
		body := &last{text, make(chan struct{}), make(chan struct{})}
		s := &stream{ReadCloser: body, control: http.NewResponseController(httptest.NewRecorder())}
		var leaving sync.WaitGroup
		leaving.Go(func() { <-body.reading; s.leave(t.Context()) })
		p := make([]byte, 100)
		n, err := s.Read(p)
		testserver.Equal(t, "read", string(p[:n]), want)
		testserver.Equal(t, "error", err, io.EOF)
		leaving.Wait()
	}
	s := &stream{ReadCloser: io.NopCloser(strings.NewReader("data: 1\n\n")), leaving: true}
	n, err := s.Read(make([]byte, 100))
	testserver.Equal(t, "read between events", n, 0)
	testserver.Equal(t, "error between events", err, io.EOF)
}

// A stream that never pauses ends as well.
func TestStreamOfManyEventsEnds(t *testing.T) {
	backend, d, body := beginStream(t, "text/event-stream")
	go func() {
		for i := 0; ; i++ {
			select {
			case backend.send <- fmt.Sprintf("id: %d\ndata: x\n\n", i):
			case <-backend.gone:
				return
			}
		}
	}()
	hear(t, body, "id: 0\n")
	go d.say(t, time.Minute)
	rest, err := io.ReadAll(body)
	testserver.Equal(t, "ends cleanly", err, nil)
	all := "id: 0\n" + string(rest)
	testserver.Equal(t, "bytes of whole events", wholeEvents(all), len(all))
	want := new(bytes.Buffer)
	for i := range strings.Count(all, "\n\n") {
		fmt.Fprintf(want, "id: %d\ndata: x\n\n", i)
	}
	testserver.Equal(t, "events", all, want.String())
	d.busy.Wait()
}

// Nothing but an event stream is ended before it is whole.
func TestNoStream(t *testing.T) {
	for _, kind := range []string{"text/plain", "application/x-ndjson", "text/event-stream-not", ""} {
		backend, d, body := beginStream(t, kind)
		backend.send <- "a\n\n"
		hear(t, body, "a\n\n")
		testserver.Equal(t, "registered for "+kind, d.open(), 0)
	}
	var d drain
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Length", "9")
		io.WriteString(w, "data: 1\n\n")
	}), Options{OnDrain: d.onDrain})
	_, body := testserver.Do(t, server, "GET", "/")
	testserver.Equal(t, "body", body, "data: 1\n\n")
	testserver.Do(t, server, "HEAD", "/")
	testserver.Equal(t, "registered for known lengths", d.ids, 0)
}

// A client that has long not read ends with the drain, or before. On a busy machine one may be late.
func TestStreamOfClientThatDoesNotRead(t *testing.T) {
	const most = live.EventTimeout - 500*time.Millisecond
	var took time.Duration
	for range 5 {
		if took = endOfStreamThatIsNotRead(t, 200*time.Millisecond); took <= most {
			return
		}
	}
	t.Errorf("handler returned after %v, want the 200 ms that are left", took)
}

// endOfStreamThatIsNotRead returns how long it takes when the drain ends within a time.
func endOfStreamThatIsNotRead(t *testing.T, within time.Duration) (took time.Duration) {
	t.Helper()
	full := make(chan struct{})
	var d drain
	server, logged, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		event := []byte("data: " + strings.Repeat("x", 1<<20) + "\n\n")
		for r.Context().Err() == nil {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			if _, err := w.Write(event); err != nil {
				close(full)
				<-r.Context().Done()
				return
			}
		}
	}), Options{OnDrain: d.onDrain})
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: baton\r\n\r\n")
	<-full
	began := time.Now()
	d.say(t, within)
	logged.Await(t, "request")
	return time.Since(began)
}

// await waits for a condition that should hold soon.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within a minute", what)
		case <-time.After(time.Millisecond):
		}
	}
}

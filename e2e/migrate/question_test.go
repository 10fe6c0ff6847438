package migrate

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
)

// Connections that move to the successor while their clients do the worst at the worst moment: whatever
// has been sent is answered whole and in order on the same connection, by whichever generation.

// question is a request, and the body of the answer that belongs to it.
type question struct {
	method string
	raw    string
	want   string
}

// mirrored is what a mirror answers.
func mirrored(method, uri, body string) string { return method + " " + uri + "\n" + body }

func get(uri string) question {
	return question{"GET", string(http1.Request("GET", uri, nil)), mirrored("GET", uri, "")}
}

func post(uri, body string, fields ...string) question {
	return question{"POST", string(http1.Request("POST", uri, []byte(body), fields...)), mirrored("POST", uri, body)}
}

// postChunked sends the body in chunks of this size.
func postChunked(uri, body string, size int) question {
	var raw strings.Builder
	fmt.Fprintf(&raw, "POST %s HTTP/1.1\r\nHost: e2e.test\r\nTransfer-Encoding: chunked\r\n\r\n", uri)
	for rest := body; rest != ""; {
		n := min(size, len(rest))
		fmt.Fprintf(&raw, "%x\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	raw.WriteString("0\r\n\r\n")
	return question{"POST", raw.String(), mirrored("POST", uri, body)}
}

// rawOf is several requests as they are sent at once.
func rawOf(asks []question) string {
	var raw strings.Builder
	for _, a := range asks {
		raw.WriteString(a.raw)
	}
	return raw.String()
}

// mirror is a backend that answers with what it was asked, so that an answer in the wrong place shows.
type mirror struct {
	gate    chan struct{} // nil: open. Below /gate a body is not read before it is closed
	entered atomic.Int64  // requests below /gate
	met     atomic.Int64  // requests of /meet/N, which wait until N have come
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/gate"):
		m.entered.Add(1)
		select {
		case <-m.gate:
		case <-r.Context().Done():
			return
		}
	case strings.HasPrefix(r.URL.Path, "/meet/"):
		m.met.Add(1)
		n, _ := strconv.ParseInt(path.Base(r.URL.Path), 10, 64)
		if !await.Holds(await.Hang, func() bool { return m.met.Load() >= n }) {
			http.Error(w, "alone", http.StatusGatewayTimeout)
			return
		}
	case strings.HasPrefix(r.URL.Path, "/slow"):
		time.Sleep(2 * time.Millisecond)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := mirrored(r.Method, r.URL.RequestURI(), string(body))
	w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	io.WriteString(w, answer)
}

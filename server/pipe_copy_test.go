package server_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
)

// A handler may copy from a pipe, as that of a command's output: it pauses for longer than
// a write is looked at, and what has been read of it cannot be read again.
func TestNothingOfAPipeIsLost(t *testing.T) {
	tier.Slow(t, "waits for a slow handler")
	t.Parallel()
	// net/http copies the first 512 bytes by itself.
	const start, pauses, length = 4 << 10, 3, 4<<10 + 3*len("part 0\n") + (4 << 20)
	want := append(make([]byte, start), "part 0\npart 1\npart 2\n"...)
	want = append(want, make([]byte, 4<<20)...)
	s := endWith(t, serve(t, server.Options{WriteTimeout: 500 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, in, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return
		}
		defer out.Close()
		go func() {
			defer in.Close()
			in.Write(make([]byte, start))
			for i := range pauses {
				time.Sleep(600 * time.Millisecond)
				fmt.Fprintf(in, "part %d\n", i)
			}
			in.Write(make([]byte, 4<<20))
		}()
		w.Header().Set("Content-Length", strconv.Itoa(length)) // else net/http frames it
		if _, err := io.CopyN(w, out, int64(length)); err != nil {
			t.Error(err)
		}
	})}))
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes and %v, want %d", len(got), err, len(want))
	}
}

package exchange

import (
	"bytes"
	"testing"
)

func TestPattern(t *testing.T) {
	for _, n := range []int{0, 1, 100, 200_000} {
		if got := len(Pattern(n)); got != n {
			t.Errorf("got %d bytes, want %d", got, n)
		}
	}
	whole := Pattern(20_000)
	for shift := 1; shift < 1000; shift++ {
		if bytes.Equal(whole[shift:shift+5000], whole[:5000]) {
			t.Errorf("a shift by %d does not show", shift)
		}
	}
}

func TestNew(t *testing.T) {
	x := New("POST", "/p", []byte("body"), 200, nil)
	if !bytes.HasPrefix(x.Keep, []byte("POST /p HTTP/1.1\r\n")) || !bytes.HasSuffix(x.Keep, []byte("Content-Length: 4\r\n\r\nbody")) {
		t.Errorf("request: got %q", x.Keep)
	}
	if bytes.Contains(x.Keep, []byte("close")) || !bytes.Contains(x.End, []byte("\r\nConnection: close\r\n")) {
		t.Errorf("Connection: close belongs into the one that ends the connection: got %q and %q", x.Keep, x.End)
	}
}

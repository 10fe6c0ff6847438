package pool

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/iotest"
)

// Whatever is read by whom, a reader gets the body from its beginning, or there is none.
func TestReplay(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		body := make([]byte, random.IntN(3*MaxReplay))
		for i := range body {
			body[i] = byte(random.Uint32())
		}
		var from io.Reader = bytes.NewReader(body)
		if random.IntN(2) == 0 {
			from = iotest.DataErrReader(from)
		}
		b := &replay{source: from, keeps: random.IntN(2) == 0}
		most := 0 // that was read
		for {
			if random.IntN(2) == 0 {
				b.readAhead()
			}
			r := b.open()
			part := random.IntN(len(body) + 1)
			if random.IntN(3) == 0 {
				part = random.IntN(100)
			}
			got := make([]byte, min(part, len(body)))
			if n, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, body[:n]) {
				t.Fatalf("seed %d: got %d of %d bytes (%v), or others", seed, n, len(got), err)
			}
			most = max(most, len(got))
			if random.IntN(3) > 0 && b.rewind() {
				if most > MaxReplay {
					t.Fatalf("seed %d: there is another reader after %d bytes", seed, most)
				}
				if _, err := r.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
					t.Fatalf("seed %d: the reader before reads on: %v", seed, err)
				}
				continue
			}
			if b.reader == nil { // it was rewound in vain
				if b.keeps && most < MaxReplay {
					t.Fatalf("seed %d: nothing is left after %d bytes", seed, most)
				}
				break
			}
			rest, err := io.ReadAll(r)
			if all := append(got, rest...); err != nil || !bytes.Equal(all, body) {
				t.Fatalf("seed %d: got %d bytes (%v), want %d, or others", seed, len(all), err, len(body))
			}
			break
		}
	}
}

// A reader that reads when it is replaced takes nothing away.
func TestReplayReaderThatIsReplaced(t *testing.T) {
	from, to := io.Pipe()
	b := &replay{source: from, keeps: true}
	first := b.open()
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		io.Copy(io.Discard, first)
	}()
	io.WriteString(to, "some ")
	if !b.rewind() {
		t.Fatal("there is no other reader")
	}
	second := b.open()
	go func() {
		io.WriteString(to, "body")
		to.Close()
	}()
	if got, err := io.ReadAll(second); string(got) != "some body" || err != nil {
		t.Errorf("got %q (%v)", got, err)
	}
	<-reading
}

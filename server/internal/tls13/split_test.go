package tls13

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
)

// conversation returns records of all kinds, and the application data that is in them.
func conversation(p *peer) (wire []byte, data string) {
	return slices.Concat(
		p.data("first"),
		p.record(typeHandshake, typeKeyUpdate, 0), p.record(typeHandshake, 0, 1), func() []byte {
			last := p.record(typeHandshake, updateRequested)
			p.out.update()
			return last
		}(),
		p.data("second"),
		p.record(typeApplicationData),
		p.update(updateNotRequested),
		p.inner([]byte("padded\x17\x00\x00\x00")),
		p.record(typeAlert, levelWarning, byte(alertUserCanceled)),
		p.data("last"),
	), "firstsecondpaddedlast"
}

// TestSplitsOfReads delivers a conversation in pieces, with a Read that fails because of its
// deadline wherever one ends, for every length of a piece and of the buffer.
func TestSplitsOfReads(t *testing.T) {
	for _, suite := range suiteIDs {
		state := newState(suite)
		wire, want := conversation(newPeer(t, state))
		for piece := 1; piece <= len(wire); piece++ {
			for _, size := range []int{1, 3, 1000} {
				layer := newMemory()
				c := newConn(t, layer, state)
				buffer := make([]byte, size)
				got := ""
				for rest := wire; len(rest) > 0; {
					n := min(piece, len(rest))
					layer.toRead, rest = slices.Clone(rest[:n]), rest[n:]
					for {
						n, err := c.Read(buffer)
						got += string(buffer[:n])
						if err == nil {
							continue
						}
						if !errors.Is(err, os.ErrDeadlineExceeded) || n > 0 {
							t.Fatal(n, err)
						}
						break
					}
				}
				if got != want || c.Holds() || !c.requested.Load() {
					t.Fatalf("pieces of %d: received %q, want %q", piece, got, want)
				}
			}
		}
	}
}

// TestHolds checks, byte for byte, what is held: exactly what has come of a record or message
// that is not whole, or of data that was not delivered.
func TestHolds(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	p := newPeer(t, state)
	layer := newMemory()
	c := newConn(t, layer, state)
	rest := func(want int) {
		t.Helper()
		if c.Holds() != (want > 0) || c.Pending() != want {
			t.Fatalf("holds %t, %d bytes are pending, want %d", c.Holds(), c.Pending(), want)
		}
		state, ok := c.Export()
		if ok {
			state.Clear()
			c.Resume()
		}
		if ok != (want == 0) {
			t.Fatalf("exported %t with %d bytes", ok, want)
		}
	}
	deliver := func(record []byte, then int) {
		t.Helper()
		for i := range record {
			rest(c.Pending())
			layer.toRead = record[i : i+1]
			n, err := c.Read(make([]byte, 1))
			if i < len(record)-1 {
				if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(n, err)
				}
				continue
			}
		}
		rest(then)
	}
	rest(0)
	deliver(p.data("1"), 0)
	deliver(p.data("four"), 3) // one was read
	for left := 2; left >= 0; left-- {
		c.Read(make([]byte, 1))
		rest(left)
	}
	deliver(p.record(typeApplicationData), 0)
	for i, b := range []byte{typeKeyUpdate, 0, 0, 1} {
		layer.toRead = p.record(typeHandshake, b)
		c.Read(make([]byte, 1))
		rest(i + 1)
	}
	layer.toRead = p.record(typeHandshake, updateRequested)
	c.Read(make([]byte, 1))
	rest(0)
	p.out.update()
	// Read ahead: all of what follows, with the first.
	second := p.data("second")
	layer.toRead = slices.Concat(second, p.data("third"))
	c.Read(make([]byte, 6))
	rest(5 + overhead)
}

// TestLengths reads and writes every length that is near a limit.
func TestLengths(t *testing.T) {
	var lengths []int
	for _, n := range []int{0, smallLen - overhead, smallLen, maxPlaintext - 256, maxPlaintext, batchLen, 2 * batchLen} {
		for d := -3; d <= 3; d++ {
			if n+d >= 0 {
				lengths = append(lengths, n+d)
			}
		}
	}
	for _, suite := range suiteIDs {
		state := newState(suite)
		a, b := newMemory(), newMemory()
		writer, reader := newConn(t, a, state.peer()), newConn(t, b, state)
		for _, n := range lengths {
			for _, step := range []int{0, 1, smallLen, 1 << 14} {
				if step == 1 && n > 2*smallLen && n != maxPlaintext {
					continue
				}
				if n, err := writer.Write(pattern(n)); err != nil {
					t.Fatal(n, err)
				}
				if want := (n + batchLen - 1) / batchLen; len(a.written) != want {
					t.Errorf("%d bytes: %d writes, want %d", n, len(a.written), want)
				}
				wire := a.sent()
				if records := (n + maxPlaintext - 1) / maxPlaintext; len(wire) != n+records*overhead {
					t.Errorf("%d bytes became %d, want %d records", n, len(wire), records)
				}
				b.toRead, b.step = wire, step
				if got, err := readAll(reader); !bytes.Equal(got, pattern(n)) || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("%d bytes: received %d and %v", n, len(got), err)
				}
			}
		}
	}
}

// TestSplitsOfWrites writes a text in every two pieces.
func TestSplitsOfWrites(t *testing.T) {
	state := newState(tls.TLS_CHACHA20_POLY1305_SHA256)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	text := "a text that is split"
	for i := range len(text) + 1 {
		for _, part := range []string{text[:i], text[i:]} {
			if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if got := p.receive(t, layer.sent()); got.data != text || got.rest > 0 {
			t.Errorf("split at %d: %+v", i, got)
		}
	}
}

// TestFailedWrites has the layer below fail after every byte of a Write.
func TestFailedWrites(t *testing.T) {
	for _, layerErr := range []error{os.ErrDeadlineExceeded, io.ErrClosedPipe} {
		state := newState(tls.TLS_AES_128_GCM_SHA256)
		text := []byte("a text")
		for take := range len(text) + overhead {
			layer := newMemory()
			layer.take, layer.err = take, layerErr
			c := newConn(t, layer, state)
			if n, err := c.Write(text); n != 0 || !errors.Is(err, layerErr) {
				t.Fatal(n, err)
			}
			layer.sent()
			layer.take = -1
			if _, err := c.Write(text); !errors.Is(err, layerErr) {
				t.Errorf("another Write: %v", err)
			}
			if err := c.CloseWrite(); !errors.Is(err, layerErr) {
				t.Errorf("CloseWrite: %v", err)
			}
			if _, ok := c.Export(); ok {
				t.Error("was exported")
			}
			layer.toRead = []byte{20, 3, 3, 0, 1} // which requires an alert
			if _, err := c.Read(make([]byte, 1)); !errors.As(err, new(tls.AlertError)) {
				t.Errorf("Read: %v", err)
			}
			c.Close()
			if got := layer.sent(); len(got) > 0 {
				t.Errorf("%d bytes were written after a Write had failed", len(got))
			}
		}
	}
}

// TestFailedBatch reports how much was written before the layer below failed.
func TestFailedBatch(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	layer := newMemory()
	c := newConn(t, failAfter{layer, 2}, state)
	n, err := c.Write(make([]byte, 5*batchLen))
	if n != 2*batchLen || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("wrote %d and %v, want %d", n, err, 2*batchLen)
	}
}

// failAfter fails after some Writes.
type failAfter struct {
	*memory
	writes int
}

func (f failAfter) Write(p []byte) (int, error) {
	if len(f.written) == f.writes {
		return 0, io.ErrClosedPipe
	}
	return f.memory.Write(p)
}

// blocking is a layer below that reports when a Read would block.
type blocking struct {
	*memory
	blocks func()
}

func (b blocking) Read(p []byte) (int, error) {
	if len(b.toRead) == 0 {
		b.blocks()
	}
	return b.memory.Read(p)
}

// TestBuffers has no connection hold a pooled buffer that does not hold a part of a record,
// not even in a Read that blocks.
func TestBuffers(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	c.Conn = blocking{layer, func() {
		if c.in.from == c.in.to && c.in.large != nil {
			t.Error("a Read blocks that holds a buffer")
		}
	}}
	buffer := make([]byte, maxPlaintext)
	for i, record := range [][]byte{
		p.data(string(pattern(maxPlaintext))),
		p.inner(append([]byte{23}, make([]byte, 10000)...)),
		p.inner(append([]byte{1, 90, 21}, make([]byte, 10000)...)),
		p.inner(append([]byte{24, 0, 0, 1, 22}, make([]byte, 10000)...)),
		p.inner(append([]byte{0, 22}, make([]byte, 10000)...)),
	} {
		layer.toRead = record[:2000]
		c.Read(buffer)
		if c.in.large == nil {
			t.Error("a small buffer for a large record")
		}
		layer.toRead = record[2000:]
		c.Read(buffer)
		if c.in.large != nil {
			t.Errorf("record %d: the buffer is held", i)
		}
	}
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops what is pooled")
	}
	for _, n := range []int{1, 1000, maxPlaintext, batchLen} {
		state := newState(tls.TLS_AES_128_GCM_SHA256)
		in, out := newMemory(), newMemory()
		writer, reader := newConn(t, out, state.peer()), newConn(t, in, state)
		p := make([]byte, n)
		var wire bytes.Buffer
		writer.Conn = layerFunc{out, wire.Write}
		for range 200 {
			writer.Write(p)
		}
		in.toRead = wire.Bytes()
		if got := testing.AllocsPerRun(100, func() { io.ReadFull(reader, p) }); got > 0 {
			t.Errorf("Read of %d: %v allocations", n, got)
		}
		writer.Conn = layerFunc{out, func(p []byte) (int, error) { return len(p), nil }}
		if got := testing.AllocsPerRun(100, func() { writer.Write(p) }); got > 0 {
			t.Errorf("Write of %d: %v allocations", n, got)
		}
	}
}

// layerFunc is a layer below with another Write.
type layerFunc struct {
	*memory
	write func(p []byte) (int, error)
}

func (l layerFunc) Write(p []byte) (int, error) { return l.write(p) }

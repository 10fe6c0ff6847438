package proxy

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

// bounds are the frames that data begins with, told from the whole of it.
type bounds struct {
	frames   []int // where each ends
	messages []int // those of them between two messages; the beginning of data is one as well
	closed   int   // where the first close frame ends
	broken   int   // where a header ends that cannot be
}

func boundsOf(data []byte) (b bounds) {
	b.messages = []int{0}
	fragmented := false
	for at := 0; ; {
		rest := data[at:]
		if len(rest) < 2 {
			return b
		}
		size, header := uint64(rest[1]&0x7f), 2
		var length [8]byte
		switch size {
		case 126:
			header = 4
		case 127:
			header = 10
		}
		if rest[1]&0x80 != 0 {
			header += 4
		}
		if len(rest) < header {
			return b
		}
		if size == 126 {
			copy(length[6:], rest[2:4])
			size = binary.BigEndian.Uint64(length[:])
		} else if size == 127 {
			size = binary.BigEndian.Uint64(rest[2:10])
		}
		if size >= 1<<63 {
			b.broken = at + header
			return b
		}
		if uint64(len(rest)-header) < size {
			return b
		}
		at += header + int(size)
		b.frames = append(b.frames, at)
		if opcode := rest[0] & 0x0f; opcode < 8 {
			fragmented = rest[0] < 0x80
		} else if opcode == 8 && b.closed == 0 {
			b.closed = at
		}
		if !fragmented {
			b.messages = append(b.messages, at)
		}
	}
}

// frame returns one with a payload of that many bytes.
func frame(first byte, masked bool, size int) []byte {
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	var f []byte
	switch {
	case size < 126:
		f = []byte{first, mask | byte(size)}
	case size < 1<<16:
		f = binary.BigEndian.AppendUint16([]byte{first, mask | 126}, uint16(size))
	default:
		f = binary.BigEndian.AppendUint64([]byte{first, mask | 127}, uint64(size))
	}
	if masked {
		f = append(f, 1, 2, 3, 4)
	}
	for i := range size {
		f = append(f, 0x81+byte(i)) // that could well be a header
	}
	return f
}

// pieces cuts data in pieces of one to 40 bytes, or of more.
func pieces(data []byte, seed uint64) (all [][]byte) {
	random := rand.New(rand.NewPCG(seed, seed))
	most := []int{1, 3, 40, 1000, 1 << 20}[random.IntN(5)]
	for len(data) > 0 {
		n := 1 + random.IntN(min(most, len(data)))
		all, data = append(all, data[:n]), data[n:]
	}
	return all
}

// conversations are what the fuzzing begins with.
func conversations(f *testing.F) {
	const text, more, last, ping, bye = 0x81, 0x01, 0x80, 0x89, 0x88
	for seed, c := range [][]byte{
		nil,
		frame(text, false, 0),
		slices.Concat(frame(text, true, 5), frame(text, true, 125), frame(text, true, 126), frame(ping, true, 0), frame(bye, true, 2)),
		slices.Concat(frame(text, false, 65535), frame(text, false, 65536), frame(bye, false, 2), []byte("more")),
		slices.Concat(frame(more, false, 300), frame(ping, false, 7), frame(0, false, 10), frame(0, false, 0), frame(last, false, 1), frame(text, false, 9)),
		slices.Concat(frame(more, true, 30), frame(bye, true, 40)),
		slices.Concat(frame(text, true, 3), []byte{text, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}, frame(text, true, 3)),
		{text, 126, 0, 2, 1, 2, text, 127, 0, 0, 0, 0, 0, 0, 0, 1, 1, text, 0xfe, 0, 1, 9, 9, 9, 9, 1}, // longer than need be
		[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	} {
		for at := range uint64(6) {
			f.Add(c, uint64(seed)+10*at, uint16(at*at*at))
		}
	}
}

func FuzzFrames(f *testing.F) {
	conversations(f)
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, _ uint16) {
		want := boundsOf(data)
		var (
			tracker frames
			at      int
		)
		for _, piece := range pieces(data, seed) {
			for len(piece) > 0 {
				n := tracker.next(piece)
				if n < 1 || n > len(piece) {
					t.Fatalf("next: got %d of %d bytes", n, len(piece))
				}
				if from, i := at, slices.IndexFunc(want.frames, func(end int) bool { return end > at }); i >= 0 && from+n > want.frames[i] {
					t.Fatalf("next: went from %d to %d, over the end of a frame at %d", from, from+n, want.frames[i])
				}
				at, piece = at+n, piece[n:]
				if got := tracker.atFrame(); got != slices.Contains(want.frames, at) {
					t.Fatalf("at %d: between frames %v, want %v", at, got, !got)
				}
				if got := tracker.atMessage(); got != slices.Contains(want.messages, at) {
					t.Fatalf("at %d: between messages %v, want %v", at, got, !got)
				}
				if got := tracker.Closed; got != (want.closed > 0 && at >= want.closed) {
					t.Fatalf("at %d: closed %v, want %v", at, got, !got)
				}
				if got := tracker.Broken; got != (want.broken > 0 && at >= want.broken) {
					t.Fatalf("at %d: broken %v, want %v", at, got, !got)
				}
			}
		}
	})
}

// A flow that is to leave at any moment passes whole frames, and then nothing but the close frame,
// however little of it is written at a time, and wherever it migrates meanwhile.
func FuzzFlowLeaves(f *testing.F) {
	conversations(f)
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, leave uint16) {
		for w, name := range map[when]string{afterMessage: "message", afterFrame: "frame"} {
			want := boundsOf(data)
			places := want.messages
			if w == afterFrame {
				places = append([]int{0}, want.frames...)
			}
			var (
				to     []byte
				now    = never
				fl     = flow{isWebSocket: true}
				random = rand.New(rand.NewPCG(seed, 1))
			)
			pass := func() {
				for part := fl.next(now); len(part) > 0; part = fl.next(now) {
					n := random.IntN(len(part) + 1)
					to = append(to, part[:n]...)
					fl.wrote(n)
					if fl.isAtRest() && random.IntN(3) == 0 {
						fl = migrated(t, fl)
					}
				}
			}
			at, told := 0, -1
			for i, piece := range pieces(data, seed) {
				if i == int(leave%16) {
					told, now = at, w
					pass()
				}
				fl.Held = piece
				pass()
				at += len(piece)
			}
			passed := len(data)
			if i := slices.IndexFunc(places, func(place int) bool { return place >= told }); told >= 0 && i >= 0 &&
				(want.closed == 0 || places[i] < want.closed) {
				passed = places[i]
			}
			expect := slices.Clone(data[:passed])
			if said := passed < len(data) || told >= 0 && slices.Contains(places, passed) && want.closed == 0; said {
				expect = append(expect, 0x88, 2, 0x03, 0xe9)
			}
			if !bytes.Equal(to, expect) {
				t.Fatalf("told at %d of %d to leave after a %s: got %x, want %x", told, len(data), name, to, expect)
			}
			testserver.Equal(t, "written", fl.Written, int64(len(expect)))
			testserver.Equal(t, "close frame came", fl.isOver(), want.closed > 0)
		}
	})
}

// migrated returns a flow as a successor has it.
func migrated(t *testing.T, f flow) flow {
	t.Helper()
	encoded, err := json.Marshal(&f)
	var from flow
	if err != nil || json.Unmarshal(encoded, &from) != nil || !from.isValid() {
		t.Fatalf("%+v does not migrate: %s, %v", f, encoded, err)
	}
	next := flow{isWebSocket: f.isWebSocket, masked: f.masked}
	next.resume(from)
	return next
}

func TestCloseFrame(t *testing.T) {
	testserver.Equal(t, "to a client", string(closeFrame(goingAway, false)), "\x88\x02\x03\xe9")
	for range 3 {
		f := closeFrame(goingAway, true)
		testserver.Equal(t, "header to a backend", string(f[:2]), "\x88\x82")
		for i := range 2 {
			f[6+i] ^= f[2+i]
		}
		testserver.Equal(t, "status", string(f[6:]), "\x03\xe9")
	}
	if a, b := closeFrame(goingAway, true), closeFrame(goingAway, true); bytes.Equal(a, b) {
		t.Error("masking key: the same twice, want a new one for each frame")
	}
}

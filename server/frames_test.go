package server

// This file tests what knows where frames and records begin and end.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// split cuts p into pieces of random sizes.
func split(p []byte, seed uint64) [][]byte {
	random := rand.New(rand.NewPCG(seed, 0))
	var pieces [][]byte
	for len(p) > 0 {
		n := 1 + random.IntN(min(len(p), 1+random.IntN(40)))
		pieces = append(pieces, p[:n])
		p = p[n:]
	}
	return pieces
}

// FuzzFrames compares, for any bytes in any pieces, with a reader of frames that
// has them all at once.
func FuzzFrames(f *testing.F) {
	var conversation bytes.Buffer
	fr := http2.NewFramer(&conversation, nil)
	fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("block")})
	fr.WriteContinuation(1, false, nil)
	fr.WriteContinuation(1, true, []byte("rest"))
	fr.WriteData(1, true, make([]byte, 300))
	fr.WritePing(true, [8]byte{1, 2, 3, 4, 5, 6, 7, 8})
	fr.WriteGoAway(7, http2.ErrCodeNo, []byte("debug data"))
	fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: []byte("push"), EndHeaders: true})
	for seed := range uint64(100) {
		f.Add(conversation.Bytes(), seed)
	}
	f.Add(conversation.Bytes()[:20], uint64(2))
	f.Add([]byte{0, 0, 0, frameContinuation, 0, 0, 0, 0, 1, 0, 0, 0, framePing, 0, 0, 0, 0, 0, 0}, uint64(3))
	f.Add([]byte{255, 255, 255, frameHeaders}, uint64(4))
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		// What a reader that has it all finds: each frame, and whether a block goes
		// on after it.
		var want []string
		ends := map[int]bool{0: false} // offset of a frame's end: within a block
		for at, block := 0, false; len(p)-at >= frameHeader; {
			length := int(p[at])<<16 | int(p[at+1])<<8 | int(p[at+2])
			kind, flags := p[at+3], p[at+4]
			at += frameHeader
			if len(p)-at < length {
				break
			}
			want = append(want, fmt.Sprint(kind, flags, p[at:at+min(length, 8)]))
			at += length
			if kind == frameHeaders || kind == framePushPromise || kind == frameContinuation {
				block = flags&flagEndHeaders == 0
			}
			ends[at] = block
		}
		var got []string
		var followed frames
		at := 0
		for _, piece := range split(p, seed) {
			if need := followed.need(); need > 0 && need < len(piece) { // it must lead to no place beyond the frame's end
				for end := range ends {
					if end > at && end < at+need {
						t.Errorf("at %d %d bytes are needed, but a frame ends at %d", at, need, end)
					}
				}
			}
			followed.follow(piece, func(f frame) { got = append(got, fmt.Sprint(f.kind, f.flags, f.payload)) })
			at += len(piece)
			block, end := ends[at]
			if followed.between() != (end && !block) {
				t.Errorf("after %d bytes: between two frames %t, want %t", at, followed.between(), end && !block)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got frames %v, want %v", got, want)
		}
		if followed.seen != (len(want) > 0) {
			t.Errorf("got seen %t after %d frames", followed.seen, len(want))
		}
	})
}

// FuzzRecords does so for the records of TLS.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("\x16\x03\x01\x00\x05hello\x17\x03\x03\x00\x00\x17\x03\x03\x01\x00half"), uint64(1))
	f.Add([]byte("\x17\x03\x03"), uint64(2))
	f.Add(append([]byte("\x17\x03\x03\x01\x01"), make([]byte, 257+3)...), uint64(3))
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		ends := map[int]bool{0: true}
		for at := 0; len(p)-at >= 5; {
			at += 5 + int(p[at+3])<<8 + int(p[at+4])
			ends[at] = true
		}
		var s secure
		at := 0
		for _, piece := range split(p, seed) {
			s.records.follow(piece)
			at += len(piece)
			if s.holds() == ends[at] {
				t.Errorf("after %d bytes: within a record %t", at, s.holds())
			}
		}
	})
}

// passing is a socket that keeps what is written, and yields what is to be read in
// pieces of random sizes.
type passing struct {
	net.Conn
	written bytes.Buffer
	pieces  [][]byte
}

func (p *passing) Write(b []byte) (int, error) { return p.written.Write(b) }

func (p *passing) Read(b []byte) (int, error) {
	if len(p.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.pieces[0])
	if p.pieces[0] = p.pieces[0][n:]; len(p.pieces[0]) == 0 {
		p.pieces = p.pieces[1:]
	}
	return n, nil
}

func (p *passing) SetReadDeadline(time.Time) error { return nil }

func (p *passing) SetWriteDeadline(time.Time) error { return nil }

// randomFrames returns frames as peers send them.
func randomFrames(random *rand.Rand) []byte {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	for range 1 + random.IntN(10) {
		some := make([]byte, random.IntN(60))
		switch random.IntN(5) {
		case 0:
			fr.WriteSettings()
		case 1:
			fr.WriteData(1, false, some)
		case 2:
			more := random.IntN(3)
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: some, EndHeaders: more == 0})
			for ; more > 0; more-- {
				fr.WriteContinuation(1, more == 1, some)
			}
		case 3:
			fr.WriteWindowUpdate(0, 1)
		case 4:
			fr.WritePing(false, [8]byte{})
		}
	}
	return b.Bytes()
}

// putIn checks that got is want with extra put in at one boundary, at or beyond
// after and not beyond the next one.
func putIn(t *testing.T, got, want, extra []byte, after int) {
	t.Helper()
	at := bytes.Index(got, extra)
	if at < 0 {
		t.Fatalf("%d bytes passed, and nothing is put in", len(got))
	}
	if rest := append(bytes.Clone(got[:at]), got[at+len(extra):]...); !bytes.Equal(rest, want) {
		t.Fatal("what passed is not what was sent, with something put in")
	}
	var followed frames
	first := -1
	for i, b := range want {
		followed.follow([]byte{b}, func(frame) {})
		if i+1 >= after && followed.between() && followed.seen {
			first = i + 1
			break
		}
	}
	if at != first {
		t.Errorf("put in at %d, want %d, the first boundary from %d on", at, first, after)
	}
}

// FuzzPutIn splits a conversation at random, and has the drain begin anywhere.
func FuzzPutIn(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	s := New(Options{Handler: http.NotFoundHandler()})
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		sent := randomFrames(random)
		socket := new(passing)
		h := newHTTP2Conn(s.newConn(socket, nil))
		from, at := random.IntN(len(sent)), 0
		begun := -1
		for _, piece := range split(sent, seed) {
			if begun < 0 && at >= from {
				begun = at
				h.notice()
			}
			if n, err := h.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
			at += len(piece)
		}
		if begun < 0 {
			begun = at
			h.notice()
		}
		putIn(t, socket.written.Bytes(), sent, drainNotice, begun)

		// A refusal is put in as well, and nothing follows on it.
		socket = new(passing)
		h = newHTTP2Conn(s.newConn(socket, nil))
		r := &refusal{goAway: []byte("a GOAWAY"), sent: make(chan struct{})}
		at, begun = 0, -1
		var err error
		for _, piece := range split(sent, seed) {
			if begun < 0 && at >= from {
				begun = at
				h.refusal.Store(r)
				h.tryInterject()
			}
			if _, err = h.Write(piece); err != nil {
				break
			}
			at += len(piece)
		}
		if err != nil || begun >= 0 && h.sent.between() {
			<-r.sent
			passed, over := bytes.CutSuffix(socket.written.Bytes(), r.goAway)
			if !over || !bytes.HasPrefix(sent, passed) {
				t.Fatal("what passed is not what was sent, with a refusal at its end")
			}
			putIn(t, append(socket.written.Bytes(), sent[len(passed):]...), sent, r.goAway, begun)
		}

		came := randomFrames(random)
		socket = &passing{pieces: split(came, seed)}
		h = newHTTP2Conn(s.newConn(socket, nil))
		h.in = bufio.NewReaderSize(h.conn.layer, 16)
		h.noticing.Store(true)
		from, begun = random.IntN(len(came)), -1
		var got []byte
		for {
			if begun < 0 && len(got) >= from {
				begun = len(got)
				h.end()
			}
			p := make([]byte, 1+random.IntN(50))
			n, err := h.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				break
			}
		}
		putIn(t, got, came, clientGoAway, begun)
	})
}

package frames

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

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
	f.Add([]byte{0, 0, 0, Continuation, 0, 0, 0, 0, 1, 0, 0, 0, Ping, 0, 0, 0, 0, 0, 0}, uint64(3))
	f.Add([]byte{255, 255, 255, Headers}, uint64(4))
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		// What a reader that has it all finds: each frame, and whether a block goes
		// on after it.
		var want []string
		ends := map[int]bool{0: false} // offset of a frame's end: within a block
		for at, block := 0, false; len(p)-at >= HeaderLen; {
			length := int(p[at])<<16 | int(p[at+1])<<8 | int(p[at+2])
			kind, flags := p[at+3], p[at+4]
			at += HeaderLen
			if len(p)-at < length {
				break
			}
			want = append(want, fmt.Sprint(kind, flags, p[at:at+min(length, 8)]))
			at += length
			if kind == Headers || kind == PushPromise || kind == Continuation {
				block = flags&FlagEndHeaders == 0
			}
			ends[at] = block
		}
		var got []string
		var followed Follower
		at := 0
		for _, piece := range split(p, seed) {
			if need := followed.Need(); need > 0 && need < len(piece) { // it must lead to no place beyond the frame's end
				for end := range ends {
					if end > at && end < at+need {
						t.Errorf("at %d %d bytes are needed, but a frame ends at %d", at, need, end)
					}
				}
			}
			followed.Follow(piece, func(f Frame) { got = append(got, fmt.Sprint(f.Type, f.Flags, f.Payload[:min(len(f.Payload), 8)])) })
			at += len(piece)
			block, end := ends[at]
			if followed.Between() != (end && !block) {
				t.Errorf("after %d bytes: between two frames %t, want %t", at, followed.Between(), end && !block)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got frames %v, want %v", got, want)
		}
		if followed.Seen() != (len(want) > 0) {
			t.Errorf("got seen %t after %d frames", followed.Seen(), len(want))
		}
	})
}

// RFC 9113, section 4.1: the bit is ignored.
func TestReservedBit(t *testing.T) {
	p := Append(nil, RSTStream, 0, 1<<31|5, make([]byte, 4))
	var f Follower
	f.Follow(p, func(f Frame) {
		if f.Stream != 5 {
			t.Errorf("followed: got stream %d, want 5", f.Stream)
		}
	})
	if got := Header(p).Stream; got != 5 {
		t.Errorf("its header: got stream %d, want 5", got)
	}
}

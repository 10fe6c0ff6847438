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

func TestBlockAndCarried(t *testing.T) {
	const both = FlagPadded | FlagPriority
	for name, test := range map[string]struct {
		frame   Frame
		carried int
		block   string
	}{
		"data":                              {Frame{Type: Data, Length: 300, Payload: []byte("12345678")}, 300, "12345678"},
		"padded data":                       {Frame{Type: Data, Flags: FlagPadded, Length: 300, Payload: []byte("\x0a2345678")}, 289, "2345678"},
		"padding of no bytes":               {Frame{Type: Data, Flags: FlagPadded, Length: 3, Payload: []byte("\x00ab")}, 2, "ab"},
		"more padding than there is":        {Frame{Type: Data, Flags: FlagPadded, Length: 3, Payload: []byte("\x09ab")}, 0, ""},
		"padded, and empty":                 {Frame{Type: Data, Flags: FlagPadded}, 0, ""},
		"headers":                           {Frame{Type: Headers, Length: 5, Payload: []byte("block")}, 5, "block"},
		"headers with padding":              {Frame{Type: Headers, Flags: FlagPadded, Length: 8, Payload: []byte("\x02block00")}, 5, "block"},
		"with a priority":                   {Frame{Type: Headers, Flags: FlagPriority, Length: 10, Payload: []byte("prio!block")}, 10, "block"},
		"with both":                         {Frame{Type: Headers, Flags: both, Length: 13, Payload: []byte("\x02prio!block00")}, 10, "block"},
		"with a priority that is not whole": {Frame{Type: Headers, Flags: FlagPriority, Length: 3, Payload: []byte("pri")}, 3, ""},
		"continuation":                      {Frame{Type: Continuation, Flags: FlagPadded, Length: 7}, 7, ""},
		"a PING":                            {Frame{Type: Ping, Length: 8}, 0, ""},
	} {
		if got := test.frame.Carried(); got != test.carried {
			t.Errorf("%s: got %d bytes carried, want %d", name, got, test.carried)
		}
		if got := string(test.frame.Block()); got != test.block && test.frame.Type == Headers {
			t.Errorf("%s: got the block %q, want %q", name, got, test.block)
		}
	}
}

func TestEndsResponse(t *testing.T) {
	for kind := range byte(10) {
		for _, flags := range []byte{0, FlagEndStream, FlagEndHeaders, FlagEndStream | FlagEndHeaders} {
			want := (kind == Data || kind == Headers) && (flags == FlagEndStream || flags == FlagEndStream|FlagEndHeaders)
			if got := (Frame{Type: kind, Flags: flags}).EndsResponse(); got != want {
				t.Errorf("type %d, flags %x: got %t", kind, flags, got)
			}
		}
	}
}

// The other codes are those of handlers that return early, or fail.
func TestRefuses(t *testing.T) {
	for code, want := range []bool{CodeNo: false, 1: true, CodeInternal: false, 3: true, 5: true, 7: true, CodeCancel: false, CodeEnhanceYourCalm: true} {
		if got := (Frame{Payload: []byte{0, 0, 0, byte(code)}}).Refuses(); got != want && code != 4 && code != 6 && code != 9 && code != 10 {
			t.Errorf("code %d: got %t, want %t", code, got, want)
		}
	}
}

// Of the first HEADERS more is kept than of others, and of SETTINGS as many as net/http allows.
func TestPayload(t *testing.T) {
	for _, test := range []struct {
		kind byte
		want []int // of one after the other
	}{{Headers, []int{FirstLen, 8}}, {Settings, []int{settingsLen, settingsLen}}, {Data, []int{8, 8}}} {
		p := Append(nil, test.kind, FlagEndHeaders, 1, make([]byte, 3000))
		for _, size := range []int{1, 7, 700, len(p)} {
			var f Follower
			for i, want := range test.want {
				for rest := p; len(rest) > 0; {
					n := min(size, len(rest))
					f.Follow(rest[:n], func(f Frame) {
						if len(f.Payload) != want || f.Length != 3000 {
							t.Errorf("type %d, number %d, in pieces of %d: got %d of %d bytes, want %d", f.Type, i+1, size, len(f.Payload), f.Length, want)
						}
					})
					rest = rest[n:]
				}
			}
		}
	}
}

func TestWithin(t *testing.T) {
	f := Resume()
	if !f.Seen() {
		t.Error("resumed: no frame was seen")
	}
	p := append(Append(nil, Data, 0, 1, []byte("ab")), Append(nil, Headers, 0, 1, []byte("x"))...)
	for i, b := range p {
		isAny, isData := f.Within()
		if wantAny, wantData := i != 0 && i != 11, i >= 9 && i < 11; isAny != wantAny || isData != wantData {
			t.Errorf("after %d bytes: got %t, %t, want %t, %t", i, isAny, isData, wantAny, wantData)
		}
		want := HeaderLen - i
		switch {
		case i >= 20:
			want = 21 - i
		case i >= 11:
			want = 20 - i
		case i >= 9:
			want = 11 - i
		}
		if got := f.Need(); got != want {
			t.Errorf("after %d bytes: %d are needed, want %d", i, got, want)
		}
		f.Follow([]byte{b}, func(Frame) {})
	}
	if isAny, isData := f.Within(); !isAny || isData {
		t.Errorf("within a header block: got %t, %t", isAny, isData)
	}
}

func TestHeader(t *testing.T) {
	if got := Header([]byte{1, 2, 3, 4, 5, 0, 0, 0, 7}); got.Length != 0x010203 || got.Type != 4 || got.Flags != 5 || got.Stream != 7 {
		t.Errorf("got %+v", got)
	}
}

// Package frames knows where the frames of HTTP/2 begin and end.
//
// net/http reads and writes the frames of a connection. The server, between net/http
// and the socket, must see some of them, count others, and put frames of its own between
// two. A [Follower] follows one direction of a connection in pieces of any size, and
// keeps nothing but the header and the first bytes of the frame under way. It has no
// I/O, and it checks nothing that net/http checks.
package frames

import "encoding/binary"

// Types of frames and their flags: RFC 9113, sections 4.1 and 6.
const (
	HeaderLen = 9

	Data         = 0x0
	Headers      = 0x1
	RSTStream    = 0x3
	Settings     = 0x4
	PushPromise  = 0x5
	Ping         = 0x6
	GoAway       = 0x7
	WindowUpdate = 0x8
	Continuation = 0x9

	FlagAck        = 0x1
	FlagEndStream  = 0x1
	FlagEndHeaders = 0x4
	FlagPadded     = 0x8
	FlagPriority   = 0x20
)

// reserved is a bit beside the identifier of a stream, which a receiver ignores.
const reserved = 1 << 31

// Settings: RFC 9113, section 6.5.2.
const (
	SettingLen = 6

	SettingHeaderTableSize   = 0x1
	SettingEnablePush        = 0x2
	SettingInitialWindowSize = 0x4
	SettingMaxFrameSize      = 0x5
	SettingMaxHeaderListSize = 0x6
)

// settingsLen is how much of a SETTINGS is kept. net/http allows so many settings.
const settingsLen = 100 * SettingLen

// FirstLen is how much of the first HEADERS is kept.
const FirstLen = 2 << 10

// Error codes: RFC 9113, section 7.
const (
	CodeNo              = 0x0
	CodeInternal        = 0x2
	CodeCancel          = 0x8
	CodeEnhanceYourCalm = 0xb
)

// Frame is one that has passed.
type Frame struct {
	Type, Flags byte
	Stream      uint32
	Length      int // of the payload
	// Payload is what it begins with, valid until the next one passes: 8 bytes, or 100 settings,
	// or FirstLen bytes of the first HEADERS.
	Payload []byte
}

// Carried returns how many bytes of a header block or a body the frame has.
func (f Frame) Carried() int {
	switch f.Type {
	case Data, Headers:
		if f.Flags&FlagPadded != 0 && len(f.Payload) > 0 {
			return max(f.Length-1-int(f.Payload[0]), 0)
		}
		return f.Length
	case Continuation:
		return f.Length
	}
	return 0
}

// Block returns what the header block begins with that a HEADERS begins.
func (f Frame) Block() []byte {
	skip, length := 0, f.Carried()
	if f.Flags&FlagPadded != 0 {
		skip++
	}
	if f.Flags&FlagPriority != 0 {
		skip, length = skip+5, length-5
	}
	block := f.Payload[min(skip, len(f.Payload)):]
	return block[:min(len(block), max(length, 0))]
}

// EndsResponse reports whether a frame that the server sends ends a response.
func (f Frame) EndsResponse() bool {
	return (f.Type == Data || f.Type == Headers) && f.Flags&FlagEndStream != 0
}

// Refuses reports whether a RST_STREAM that the server sends is due to what the client has
// sent. The other codes tell that a handler has returned early, or failed.
func (f Frame) Refuses() bool {
	switch binary.BigEndian.Uint32(f.Payload) { // as net/http writes it, it has a code
	case CodeNo, CodeInternal, CodeCancel:
		return false
	}
	return true
}

// Follower follows the frames in one direction of a connection, as they pass. Its zero
// value is at the beginning of the connection.
type Follower struct {
	header  [HeaderLen]byte
	have    int     // bytes of the header
	left    int     // bytes of the payload that are to come, when the header is whole
	length  int     // of the payload, then
	payload [8]byte // what it begins with
	held    int
	more    []byte // what a SETTINGS begins with, or the first HEADERS
	headed  bool   // there was one
	block   bool   // a header block goes on in the next frame
	seen    bool   // a frame was whole
}

// Resume returns the follower of a connection between two frames.
func Resume() Follower { return Follower{seen: true} }

// Seen reports whether a whole frame has passed.
func (f *Follower) Seen() bool { return f.seen }

// Between reports whether another frame can be put in: not within one, nor within
// a header block.
func (f *Follower) Between() bool { return f.have == 0 && !f.block }

// Need returns how many bytes there are at least to the end of the frame under way.
func (f *Follower) Need() int {
	if f.have < HeaderLen {
		return HeaderLen - f.have
	}
	return f.left
}

// Within returns whether bytes of a frame have come, or of a header block, and
// whether they are of a DATA.
func (f *Follower) Within() (any, data bool) {
	return !f.Between(), f.have == HeaderLen && f.header[3] == Data
}

// Follow takes what passes, in pieces of any size, and calls each with every frame when
// it is whole.
func (f *Follower) Follow(p []byte, each func(Frame)) {
	for len(p) > 0 {
		if f.have < HeaderLen {
			n := copy(f.header[f.have:], p)
			f.have += n
			p = p[n:]
			if f.have < HeaderLen {
				return
			}
			f.length = int(f.header[0])<<16 | int(binary.BigEndian.Uint16(f.header[1:]))
			f.left, f.held, f.more = f.length, 0, nil
		}
		n := min(f.left, len(p))
		f.held += copy(f.payload[f.held:], p[:n])
		switch kind := f.header[3]; {
		case kind == Settings:
			f.more = append(f.more, p[:min(n, settingsLen-len(f.more))]...)
		case kind == Headers && !f.headed:
			f.more = append(f.more, p[:min(n, FirstLen-len(f.more))]...)
		}
		f.left -= n
		p = p[n:]
		if f.left > 0 {
			return
		}
		f.have, f.seen = 0, true
		whole := Header(f.header[:])
		whole.Payload = f.payload[:f.held]
		switch whole.Type {
		case Settings:
			whole.Payload = f.more
		case Headers, PushPromise, Continuation:
			if whole.Type == Headers && !f.headed {
				whole.Payload, f.headed = f.more, true
			}
			f.block = whole.Flags&FlagEndHeaders == 0
		}
		each(whole)
		f.more = nil
	}
}

// Header returns the kind, flags, stream and length of the frame that a header of HeaderLen
// bytes begins. The stream is without the bit that is reserved: RFC 9113, section 4.1.
func Header(p []byte) Frame {
	return Frame{Type: p[3], Flags: p[4], Stream: binary.BigEndian.Uint32(p[5:]) &^ reserved,
		Length: int(p[0])<<16 | int(binary.BigEndian.Uint16(p[1:]))}
}

// Append appends a frame to p.
func Append(p []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	p = append(p, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	p = binary.BigEndian.AppendUint32(p, stream)
	return append(p, payload...)
}

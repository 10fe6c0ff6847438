package server

// This file holds what knows where the frames of HTTP/2 begin and end.

import "encoding/binary"

// RFC 9113, sections 4.1 and 6.
const (
	frameHeader = 9

	frameData         = 0x0
	frameHeaders      = 0x1
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameContinuation = 0x9

	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
)

// RFC 9113, section 7.
const (
	codeNo              = 0x0
	codeInternal        = 0x2
	codeCancel          = 0x8
	codeEnhanceYourCalm = 0xb
)

// frames follows the frames in one direction of a connection, as they pass. It
// keeps nothing of them but the header and the first bytes of the one under way.
type frames struct {
	header  [frameHeader]byte
	have    int     // bytes of the header
	left    int     // bytes of the payload that are to come, when the header is whole
	length  int     // of the payload, then
	payload [8]byte // what it begins with
	held    int
	block   bool // a header block goes on in the next frame
	seen    bool // a frame was whole
}

// frame is one that has passed.
type frame struct {
	kind, flags byte
	stream      uint32
	length      int    // of the payload
	payload     []byte // at most 8 bytes of it
}

// carried returns how many bytes of a header block or a body the frame has.
func (f frame) carried() int {
	switch f.kind {
	case frameData, frameHeaders:
		if f.flags&flagPadded != 0 && len(f.payload) > 0 {
			return max(f.length-1-int(f.payload[0]), 0)
		}
		return f.length
	case frameContinuation:
		return f.length
	}
	return 0
}

// completes reports whether a frame of the server's ends a response.
func (f frame) completes() bool {
	return (f.kind == frameData || f.kind == frameHeaders) && f.flags&flagEndStream != 0
}

// refuses reports whether a RST_STREAM of the server's is due to what the client has
// sent. The other codes tell that a handler has returned early, or failed.
func (f frame) refuses() bool {
	switch binary.BigEndian.Uint32(f.payload) { // as net/http writes it, it has a code
	case codeNo, codeInternal, codeCancel:
		return false
	}
	return true
}

// between tells whether another frame can be put in: not within one, nor within
// a header block.
func (f *frames) between() bool { return f.have == 0 && !f.block }

// need returns how many bytes there are at least to the end of the frame under way.
func (f *frames) need() int {
	if f.have < frameHeader {
		return frameHeader - f.have
	}
	return f.left
}

// within returns whether bytes of a frame have come, or of a header block, and
// whether they are of a DATA.
func (f *frames) within() (any, data bool) {
	return !f.between(), f.have == frameHeader && f.header[3] == frameData
}

// follow takes what passes, in pieces of any size, and tells of each frame when
// it is whole.
func (f *frames) follow(p []byte, each func(frame)) {
	for len(p) > 0 {
		if f.have < frameHeader {
			n := copy(f.header[f.have:], p)
			f.have += n
			p = p[n:]
			if f.have < frameHeader {
				return
			}
			f.length = int(f.header[0])<<16 | int(binary.BigEndian.Uint16(f.header[1:]))
			f.left, f.held = f.length, 0
		}
		n := min(f.left, len(p))
		f.held += copy(f.payload[f.held:], p[:n])
		f.left -= n
		p = p[n:]
		if f.left > 0 {
			return
		}
		f.have, f.seen = 0, true
		whole := frame{f.header[3], f.header[4], binary.BigEndian.Uint32(f.header[5:]), f.length, f.payload[:f.held]}
		switch whole.kind {
		case frameHeaders, framePushPromise, frameContinuation:
			f.block = whole.flags&flagEndHeaders == 0
		}
		each(whole)
	}
}

// appendFrame appends a frame of stream 0 to p.
func appendFrame(p []byte, kind, flags byte, payload []byte) []byte {
	return appendStreamFrame(p, kind, flags, 0, payload)
}

func appendStreamFrame(p []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	p = append(p, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	p = binary.BigEndian.AppendUint32(p, stream)
	return append(p, payload...)
}

package proxy

import (
	"crypto/rand"
	"encoding/binary"
	"math"
)

// frames follows the bytes of one direction of a WebSocket (RFC 6455, section
// 5.2). It keeps none of them.
type frames struct {
	have, need uint8  // bytes of the frame's header that were there, and that it has
	first      byte   // FIN and opcode
	size       uint64 // length of the payload
	left       uint64 // of the payload
	fragmented bool   // within a message, between two of its frames or in one
	closed     bool   // a whole close frame was there: the direction is over
	broken     bool   // these are no frames
}

// atFrame reports whether a frame may begin here.
func (f *frames) atFrame() bool { return f.have == 0 && !f.broken }

// atMessage reports whether a message may begin here.
func (f *frames) atMessage() bool { return f.atFrame() && !f.fragmented }

// next follows p to the end of the frame in which it begins, or to its own end,
// and returns how many bytes that were.
func (f *frames) next(p []byte) (n int) {
	for n < len(p) && !f.broken {
		if f.have > 0 && f.have == f.need {
			take := min(f.left, uint64(len(p)-n))
			f.left -= take
			n += int(take)
		} else {
			f.header(p[n])
			n++
		}
		if f.have == f.need && f.left == 0 {
			f.end()
			return n
		}
	}
	return len(p)
}

// header takes the next byte of a frame's header.
func (f *frames) header(b byte) {
	switch f.have {
	case 0:
		f.first, f.need = b, 2
	case 1:
		f.size = uint64(b & 0x7f)
		if f.size == 126 {
			f.need += 2
		} else if f.size == 127 {
			f.need += 8
		}
		if f.need > 2 {
			f.size = 0
		}
		f.left = uint64(f.need - 2) // bytes of the length
		if b&0x80 != 0 {
			f.need += 4 // the masking key
		}
	default:
		if f.left > 0 {
			f.size, f.left = f.size<<8|uint64(b), f.left-1
		}
	}
	if f.have++; f.have == f.need {
		f.left = f.size
		f.broken = f.size > math.MaxInt64
	}
}

func (f *frames) end() {
	f.have = 0
	switch opcode := f.first & 0xf; {
	case opcode == 8:
		f.closed = true
	case opcode < 8: // of data; control frames may stand between the fragments of a message
		f.fragmented = f.first&0x80 == 0
	}
}

// goingAway is the status of a close frame with which an end leaves.
const goingAway = 1001

// closeFrame returns a close frame, masked as clients have to.
func closeFrame(status uint16, masked bool) []byte {
	frame := binary.BigEndian.AppendUint16([]byte{0x88, 2}, status)
	if !masked {
		return frame
	}
	var key [4]byte
	rand.Read(key[:]) // never fails
	return []byte{0x88, 0x80 | 2, key[0], key[1], key[2], key[3], frame[2] ^ key[0], frame[3] ^ key[1]}
}

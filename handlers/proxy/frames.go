package proxy

import (
	"crypto/rand"
	"encoding/binary"
	"math"
)

// frames follows the bytes of one direction of a WebSocket (RFC 6455, section
// 5.2). It keeps none of them.
type frames struct {
	Have       uint8  `json:"have,omitempty"`       // bytes of the frame's header that were there
	Need       uint8  `json:"need,omitempty"`       // that it has
	First      byte   `json:"first,omitempty"`      // FIN and opcode
	Size       uint64 `json:"size,omitempty"`       // length of the payload
	Left       uint64 `json:"left,omitempty"`       // of the payload
	Fragmented bool   `json:"fragmented,omitempty"` // within a message, between two of its frames or in one
	Closed     bool   `json:"closed,omitempty"`     // a whole close frame was there: the direction is over
	Broken     bool   `json:"broken,omitempty"`     // these are no frames
}

// atFrame reports whether a frame may begin here.
func (f *frames) atFrame() bool { return f.Have == 0 && !f.Broken }

// atMessage reports whether a message may begin here.
func (f *frames) atMessage() bool { return f.atFrame() && !f.Fragmented }

// isValid reports whether the position is one that there can be.
func (f *frames) isValid() bool {
	return f.Have == 0 || f.Have <= f.Need && f.Need <= 14 && (f.Have < f.Need || f.Left > 0 || f.Broken)
}

// next follows p to the end of the frame in which it begins, or to its own end,
// and returns how many bytes that were.
func (f *frames) next(p []byte) (n int) {
	for n < len(p) && !f.Broken {
		if f.Have > 0 && f.Have == f.Need {
			take := min(f.Left, uint64(len(p)-n))
			f.Left -= take
			n += int(take)
		} else {
			f.header(p[n])
			n++
		}
		if f.Have == f.Need && f.Left == 0 {
			f.end()
			return n
		}
	}
	return len(p)
}

// header takes the next byte of a frame's header.
func (f *frames) header(b byte) {
	switch f.Have {
	case 0:
		f.First, f.Need = b, 2
	case 1:
		f.Size = uint64(b & 0x7f)
		if f.Size == 126 {
			f.Need += 2
		} else if f.Size == 127 {
			f.Need += 8
		}
		if f.Need > 2 {
			f.Size = 0
		}
		f.Left = uint64(f.Need - 2) // bytes of the length
		if b&0x80 != 0 {
			f.Need += 4 // the masking key
		}
	default:
		if f.Left > 0 {
			f.Size, f.Left = f.Size<<8|uint64(b), f.Left-1
		}
	}
	if f.Have++; f.Have == f.Need {
		f.Left = f.Size
		f.Broken = f.Size > math.MaxInt64
	}
}

func (f *frames) end() {
	f.Have = 0
	switch opcode := f.First & 0xf; {
	case opcode == 8:
		f.Closed = true
	case opcode < 8: // of data; control frames may stand between the fragments of a message
		f.Fragmented = f.First&0x80 == 0
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

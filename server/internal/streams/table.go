package streams

import "example.com/baton/server/internal/frames"

// table says what is proved of the dynamic table of header compression in one direction:
// RFC 7541, section 2.3.2.
type table uint8

const (
	unused table = iota // no header block has passed, so that it is empty
	empty               // it is too small for an entry
	used                // it may have entries
)

// follow notes the frame that begins a header block.
//
// A block may begin with size updates: the size is in the lower five bits, if it is less than
// 31. An entry has 32 bytes at least.
func (t *table) follow(f frames.Frame) {
	for i, b := range f.Block() {
		switch {
		case b&0xe0 == 0x20 && b&0x1f < 31: // a small size; another may follow
		case b&0xe0 == 0x20:
			*t = used
			return
		case i > 0:
			*t = empty
			return
		default:
			if *t == unused {
				*t = used
			}
			return
		}
	}
	*t = used // it is not seen what follows
}

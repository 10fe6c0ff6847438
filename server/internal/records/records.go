// Package records tells whether more has come over TLS than was read.
//
// crypto/tls reads ahead, and does not say how far. Whether a client has sent something
// can therefore not be asked of the socket alone. An [Inbound] follows the records that
// come from the client, which are counted when they are whole, and what is read of them
// as plaintext. It knows nothing of keys.
package records

import "sync"

const (
	headerLen       = 5        // RFC 8446, section 5.1
	applicationData = 23       // the type of a record
	maxPlaintext    = 16 << 10 // of a record
)

// Inbound is what comes from a client. It is safe for concurrent use.
type Inbound struct {
	mu     sync.Mutex
	header [headerLen]byte
	have   int // bytes of the record under way, of its header at most; 0: between two
	left   int // bytes of its content that are to come, when its header is whole

	whole int  // records of application data that have come
	read  int  // records that were read, one of them in part if rest is true
	rest  bool // the last Read filled its buffer: there may be more of its record
}

// Came notes what was read from the socket, in pieces of any size.
func (in *Inbound) Came(p []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(p) > 0 {
		if in.have < headerLen {
			n := copy(in.header[in.have:], p)
			in.have += n
			p = p[n:]
			if in.have < headerLen {
				return
			}
			in.left = int(in.header[3])<<8 | int(in.header[4])
		}
		n := min(in.left, len(p))
		in.left -= n
		p = p[n:]
		if in.left == 0 {
			in.have = 0
			if in.header[0] == applicationData {
				in.whole++
			}
		}
	}
}

// Need returns how many bytes are left of the record under way, or of its header if that is
// not whole.
func (in *Inbound) Need() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.have < headerLen {
		return headerLen - in.have
	}
	return in.left
}

// EndHandshake forgets the records that have come. In TLS 1.3 those at the end of a handshake
// look like application data.
func (in *Inbound) EndHandshake() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.whole = 0
}

// Within reports whether a part of a record has come: a client may be about to send a
// request.
func (in *Inbound) Within() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.have > 0
}

// Read notes that crypto/tls has returned n bytes for a buffer of that length. It returns
// bytes of one record at a time.
func (in *Inbound) Read(n, buffer int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n > 0 {
		if !in.rest {
			in.read++
		}
		in.rest = n == buffer
	}
}

// Pending returns how many bytes may have come that were not read, besides those that the
// kernel has: an upper bound, 0 if there are certainly none.
func (in *Inbound) Pending() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := in.whole - in.read
	if in.rest || in.have > 0 {
		n = max(n, 0) + 1
	}
	return max(n, 0) * maxPlaintext
}

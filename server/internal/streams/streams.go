// Package streams knows what another process needs to go on with a connection of HTTP/2, and
// when it can.
//
// net/http does not tell, but the frames that it gets and sends do. [Machine] follows them in
// both directions: which streams are open, how much either side may send, what the client has
// set and acknowledged, and whether the tables of header compression are empty. A connection
// without open streams is at rest ([Machine.AtRest]), and its [State] is all there is to know.
// The machine has no I/O, no clock, no lock and no goroutine.
//
// # Header tables
//
// The dynamic tables of RFC 7541 cannot be had from net/http, so they are kept empty. The
// client learns by SETTINGS_HEADER_TABLE_SIZE that it has no table: [Machine.Write] changes
// the value on its way, and net/http, which knows nothing of that, goes on to accept what
// the client sends before it has read the setting. net/http's own encoder is given a limit
// of one byte by its configuration. That both have taken effect is seen on the wire: a header
// block then begins with a size update, and 32 bytes are the least that an entry needs.
//
// # What net/http owes
//
// It processes frames in order, and sends control frames in order. So when it has answered a
// PING that the client did not send ([Machine.Sync]), it has processed all that precedes, and
// sent what it owes for that. The answer is for the machine, and does not go to the client.
//
// # In the successor
//
// A net/http that begins is brought to the state of the connection by a conversation of which
// the client sees nothing. [Adopt] describes it.
package streams

import (
	"bytes"
	"encoding/binary"

	"example.com/baton/server/internal/frames"
)

const (
	// initialWindow is what either side may send on a connection that begins.
	initialWindow = 65_535
	// maxWindow is the most that it may ever send: RFC 9113, section 6.9.1.
	maxWindow = 1<<31 - 1
	// initialTable is the size of the header table if it is not set.
	initialTable = 4096
)

// ended says which sides of an open stream have ended.
type ended uint8

const (
	byClient ended = 1 << iota
	byServer
)

// Machine is what is known of one connection. It must be used by one goroutine at a time.
type Machine struct {
	open map[uint32]ended
	last uint32 // the client's latest stream

	send, receive int64 // what the server may send, and the client

	settings values // the client's
	own      []byte // the settings that the server has sent last
	unacked  int    // how many SETTINGS the client has not acknowledged

	client, server table  // what is proved of the header tables
	first          []byte // the client's header block, if there was one only, and its table may be used
	pushed         bool   // the server has opened streams, too

	editor
}

// New returns the machine of a connection that begins.
func New() *Machine {
	return &Machine{send: initialWindow, receive: initialWindow}
}

// Received notes a frame that net/http has got from the client.
func (m *Machine) Received(f frames.Frame) {
	m.sync.overtake()
	switch f.Type {
	case frames.Headers:
		m.followBlock(f)
		if _, open := m.open[f.Stream]; !open && f.Stream > m.last {
			m.begin(f.Stream)
		}
		m.end(f, byClient)
	case frames.Data:
		m.receive -= int64(f.Length)
		m.end(f, byClient)
	case frames.RSTStream:
		delete(m.open, f.Stream)
	case frames.WindowUpdate:
		m.send += increment(f)
	case frames.Settings:
		if f.Flags&frames.FlagAck != 0 {
			m.unacked--
		} else {
			m.settings.follow(f.Payload)
		}
	}
}

// followBlock notes what a header block of the client says of its table. The first one may have
// been made before the client knew the settings.
func (m *Machine) followBlock(f frames.Frame) {
	isFirst := m.client == unused
	m.client.follow(f)
	m.first = nil
	if isFirst && m.client == used && f.Flags&frames.FlagEndHeaders != 0 && len(f.Payload) == f.Length {
		m.first = bytes.Clone(f.Block())
	}
}

// Sent notes a frame that was sent to the client.
func (m *Machine) Sent(f frames.Frame) {
	switch f.Type {
	case frames.Headers:
		m.server.follow(f)
		m.end(f, byServer)
	case frames.Data:
		m.send -= int64(f.Length)
		m.end(f, byServer)
	case frames.RSTStream:
		delete(m.open, f.Stream)
	case frames.WindowUpdate:
		m.receive += increment(f)
	case frames.Settings:
		if f.Flags&frames.FlagAck == 0 {
			m.unacked++
			m.own = f.Payload
		}
	case frames.PushPromise:
		m.pushed = true
	}
}

// begin opens a stream.
func (m *Machine) begin(id uint32) {
	if m.open == nil {
		m.open = make(map[uint32]ended)
	}
	m.last, m.open[id] = id, 0
}

// end notes that a frame may have ended one side of its stream.
func (m *Machine) end(f frames.Frame, side ended) {
	sides, open := m.open[f.Stream]
	if !open || f.Flags&frames.FlagEndStream == 0 {
		return
	}
	if sides |= side; sides == byClient|byServer {
		delete(m.open, f.Stream)
	} else {
		m.open[f.Stream] = sides
	}
}

// increment returns by how much a WINDOW_UPDATE changes the window of the connection.
func increment(f frames.Frame) int64 {
	if f.Stream != 0 || len(f.Payload) != 4 {
		return 0
	}
	return int64(binary.BigEndian.Uint32(f.Payload) &^ (1 << 31))
}

// Last returns the client's latest stream that net/http knows.
func (m *Machine) Last() uint32 { return m.last }

// Open returns how many streams are open.
func (m *Machine) Open() int { return len(m.open) }

// OpenSince reports whether all open streams are later than one.
func (m *Machine) OpenSince(id uint32) bool {
	for open := range m.open {
		if open <= id {
			return false
		}
	}
	return true
}

// MayRest reports whether the connection is at rest as soon as no stream is open.
func (m *Machine) MayRest() bool { return m.client != used && m.isKnown() }

// isKnown reports whether all is known but what the client's table has.
func (m *Machine) isKnown() bool {
	return m.prime == nil && m.announced && m.unacked == 0 && !m.pushed && m.server != used &&
		m.send >= 0 && m.send <= maxWindow && m.receive >= 0
}

// AtRest reports whether another process could go on with the connection, once net/http owes
// nothing.
func (m *Machine) AtRest() bool {
	return len(m.open) == 0 && (m.MayRest() || m.first != nil && m.send >= initialWindow && m.isKnown())
}

// State is that of a connection at rest.
type State struct {
	Last     uint32 `json:"last"`     // the client's latest stream
	Send     int64  `json:"send"`     // what the server may send on the connection
	Receive  int64  `json:"receive"`  // what the client may
	Settings values `json:"settings"` // the client's
	Own      []byte `json:"own"`      // what the server has set, and the client acknowledged

	// Block is the client's only header block. Without it the client's table is empty.
	Block []byte `json:"block,omitempty"`
}

// Export returns the state, and whether the connection is at rest and net/http owes nothing.
func (m *Machine) Export() (s State, ok bool) {
	return State{m.last, m.send, m.receive, m.settings, m.own, m.first}, m.AtRest() && m.sync.state == answered && len(m.part) == 0
}

// IsValid reports whether net/http can be brought to the state, if it lets the client send as
// much as window.
func (s State) IsValid(window int64) bool {
	return s.Last <= 1<<31-1 && (s.Last == 0 && s.Send >= initialWindow || s.Last%2 == 1) &&
		s.Send >= 0 && s.Send <= maxWindow && s.Receive >= 0 && s.Receive <= window && len(s.Own)%frames.SettingLen == 0 &&
		(len(s.Block) == 0 || s.Last > 0 && s.Send >= initialWindow && len(s.Block) <= frames.FirstLen)
}

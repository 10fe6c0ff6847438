package streams

import (
	"bytes"
	"encoding/binary"

	"example.com/baton/server/internal/frames"
)

// prime brings a net/http that begins to the state of a connection.
type prime struct {
	padding int    // how much the response to the request has
	own     []byte // what net/http sets, as it is for the client
	window  int64  // what it lets the client send
	ended   bool   // the response is
	last    bool   // what remains is the answer to the PING
	ping    [8]byte
}

// Adopt returns the machine of a connection in the given state, and has net/http, which
// begins, brought to that. preface is that of HTTP/2.
//
// net/http is given the client's settings, and a request on the client's latest stream, as
// fields tells in a header block without a table, or as the client's only header block does: so
// it knows which streams have been. It
// begins with a window of 65,535 bytes. A larger one is given by a WINDOW_UPDATE, a smaller
// one by the length of the response ([Machine.Padding]). Then follow the size of the client's
// header table, after the least one, so that net/http's next header block, which is the first
// one that the client sees, begins with size updates, and a PING with the given payload. When
// it is answered, the client gets the settings, if they have changed, and as much window as it
// lacks.
func Adopt(s State, preface string, fields []byte, ping [8]byte) *Machine {
	m := &Machine{last: s.Last, send: s.Send, receive: s.Receive, settings: s.Settings, own: s.Own}
	m.announced = true
	m.prime = &prime{window: initialWindow, padding: int(max(initialWindow-s.Send, 0)), ended: s.Last == 0, ping: ping}
	m.give = frames.Append([]byte(preface), frames.Settings, 0, 0, m.settings.append(nil))
	if more := s.Send - initialWindow; more > 0 {
		m.give = appendWindowUpdate(m.give, 0, more)
	}
	if s.Last == 0 {
		return m
	}
	m.client = empty
	if len(s.Block) > 0 {
		m.client, m.first, fields = used, s.Block, s.Block
	}
	m.give = frames.Append(m.give, frames.Headers, frames.FlagEndStream|frames.FlagEndHeaders, s.Last, fields)
	if lacks := m.prime.padding - int(m.settings.get(frames.SettingInitialWindowSize, initialWindow)); lacks > 0 {
		m.give = appendWindowUpdate(m.give, s.Last, int64(lacks))
	}
	return m
}

// IsPriming reports whether net/http is being brought to the state of the connection. It must
// not get anything of the client before.
func (m *Machine) IsPriming() bool { return m.prime != nil }

// Padding returns how many bytes the response to the first request must have.
func (m *Machine) Padding() int {
	if m.prime == nil {
		return 0
	}
	return m.prime.padding
}

// primed notes a frame of that conversation, and returns what the client gets at its end.
func (m *Machine) primed(f frames.Frame, frame []byte) (out []byte) {
	p := m.prime
	isAck := f.Flags&frames.FlagAck != 0
	switch {
	case f.Type == frames.Settings && !isAck:
		p.own = withoutTable(frame)[frames.HeaderLen:]
	case f.Type == frames.WindowUpdate:
		p.window += increment(f)
	case (f.EndsResponse() || f.Type == frames.RSTStream) && f.Stream == m.last:
		p.ended = true
	case f.Type == frames.Ping && isAck && p.last && string(f.Payload) == string(p.ping[:]):
		return m.begun()
	}
	if p.last || !p.ended || p.own == nil {
		return nil
	}
	p.last = true
	if bytes.Equal(p.own, m.own) { // the client has acknowledged them
		m.give = frames.Append(m.give, frames.Settings, frames.FlagAck, 0, nil)
	}
	for _, size := range []uint32{0, m.settings.get(frames.SettingHeaderTableSize, initialTable)} { // it may have been smaller
		m.give = frames.Append(m.give, frames.Settings, 0, 0, appendSetting(nil, frames.SettingHeaderTableSize, size))
	}
	m.give = frames.Append(m.give, frames.Ping, 0, 0, p.ping[:])
	return nil
}

// begun ends that conversation.
func (m *Machine) begun() (out []byte) {
	p := m.prime
	m.prime = nil
	if !bytes.Equal(p.own, m.own) {
		out = frames.Append(out, frames.Settings, 0, 0, p.own)
	}
	if lacks := p.window - m.receive; lacks > 0 {
		out = appendWindowUpdate(out, 0, lacks)
	}
	return out
}

func appendWindowUpdate(p []byte, stream uint32, increment int64) []byte {
	return frames.Append(p, frames.WindowUpdate, 0, stream, binary.BigEndian.AppendUint32(nil, uint32(increment)))
}

package streams

import "example.com/baton/server/internal/frames"

// editor changes what net/http and the client have from each other.
type editor struct {
	part      []byte // what net/http has written of a frame that may have to be changed; else empty
	announced bool   // its settings have been, as they are for the client
	sync      sync
	prime     *prime // nil: net/http is in the state of the connection
	give      []byte // what it is to be given beside what the client sends
}

// Give returns what net/http is to be given before the client's next frame.
func (m *Machine) Give() []byte {
	give := m.give
	m.give = nil
	return give
}

// Write returns what is to be sent of what net/http writes, and whether that is anything else.
func (m *Machine) Write(p []byte) (out []byte, changed bool) {
	if m.passes() {
		return p, false
	}
	m.part = append(m.part, p...)
	for !m.passes() && len(m.part) >= frames.HeaderLen {
		f := frames.Header(m.part)
		length := frames.HeaderLen + f.Length
		if len(m.part) < length {
			return out, true
		}
		out = append(out, m.edit(f, m.part[:length])...)
		m.part = m.part[length:]
	}
	if m.passes() {
		out, m.part = append(out, m.part...), nil
	}
	return out, true
}

// passes reports whether nothing of what net/http writes has to be changed.
func (m *Machine) passes() bool { return m.announced && m.prime == nil && !m.sync.underWay() }

// edit returns what is to be sent in place of a frame.
func (m *Machine) edit(f frames.Frame, frame []byte) []byte {
	isAck := f.Flags&frames.FlagAck != 0
	switch {
	case m.prime != nil:
		f.Payload = frame[frames.HeaderLen:]
		return m.primed(f, frame)
	case f.Type == frames.Settings && !isAck:
		m.announced = true
		return withoutTable(frame)
	case f.Type == frames.Ping && isAck && m.sync.answer(frame[frames.HeaderLen:]):
		return nil
	}
	return frame
}

// Sync has net/http show that it owes nothing, unless it does already. The PING must be one
// that nobody foresees, and net/http between two frames of those that it writes.
func (m *Machine) Sync(ping [8]byte) {
	if !m.sync.underWay() {
		m.sync = sync{asked, ping}
		m.give = frames.Append(m.give, frames.Ping, 0, 0, ping[:])
	}
}

// IsSyncing reports whether net/http has not answered that PING.
func (m *Machine) IsSyncing() bool { return m.sync.underWay() }

// sync is a PING that net/http is given.
type sync struct {
	state progress
	ping  [8]byte
}

type progress uint8

const (
	idle      progress = iota
	asked              // net/http is given the PING
	overtaken          // and then something of the client
	answered           // and has answered, and has got nothing since
)

func (s *sync) underWay() bool { return s.state == asked || s.state == overtaken }

// overtake notes that net/http has got something of the client.
func (s *sync) overtake() {
	switch s.state {
	case asked:
		s.state = overtaken
	case answered:
		s.state = idle
	}
}

// answer reports whether the answer to a PING is the one that is awaited.
func (s *sync) answer(ping []byte) bool {
	if !s.underWay() || string(ping) != string(s.ping[:]) {
		return false
	}
	if s.state == asked {
		s.state = answered
	} else {
		s.state = idle
	}
	return true
}

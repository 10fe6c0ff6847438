package link

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// State is what the sockets of a connection alone do not tell, as JSON of the service's own.
// It may hold keys: it is never formatted.
type State []byte

// Format shows nothing of the state.
func (State) Format(f fmt.State, _ rune) { io.WriteString(f, "[state]") }

// MarshalText shows nothing of the state: see encode.
func (State) MarshalText() ([]byte, error) { return []byte("[state]"), nil }

// UnmarshalJSON copies the state.
func (s *State) UnmarshalJSON(text []byte) error {
	*s = nil
	if string(text) != "null" {
		*s = bytes.Clone(text)
	}
	return nil
}

// encode returns the packet of a message. It appends the states itself, since encoding/json
// keeps copies of what it encodes in buffers of its own, which nobody can clear.
func (m Message) encode() ([]byte, error) {
	states := m.States
	m.States = nil
	packet, err := json.Marshal(m)
	if err != nil || len(states) == 0 {
		return packet, err
	}
	size := len(packet) + len(`,"states":[]`)
	for _, s := range states {
		size += len("null,") + len(s)
	}
	whole := append(make([]byte, 0, size), packet[:len(packet)-1]...) // never copied to grow
	whole = append(whole, `,"states":[`...)
	for i, s := range states {
		if i > 0 {
			whole = append(whole, ',')
		}
		if len(s) == 0 {
			s = State("null")
		}
		whole = append(whole, s...)
	}
	return append(whole, "]}"...), nil
}

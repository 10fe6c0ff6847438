package tls13

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
)

// State is what another process needs to go on with a connection. Whoever has it can read
// and forge what is sent.
type State struct {
	Suite uint16 `json:"suite"` // as in crypto/tls
	In    Half   `json:"in"`    // what is received
	Out   Half   `json:"out"`   // what is sent

	// UpdateRequested is set if the peer has requested a KeyUpdate that was not sent yet.
	UpdateRequested bool `json:"update_requested,omitempty"`
}

// Half is the state of one direction.
type Half struct {
	Secret   Secret `json:"secret"`   // the application traffic secret (RFC 8446, section 7.2)
	Sequence uint64 `json:"sequence"` // of the next record
}

// Secret is a traffic secret. JSON has it in base64; it is not formatted or logged.
type Secret []byte

const redacted = "[redacted]"

// String returns a placeholder.
func (Secret) String() string { return redacted }

// GoString returns a placeholder.
func (Secret) GoString() string { return redacted }

// Format prints a placeholder, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue returns a placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a placeholder.
func (Half) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a placeholder.
func (State) LogValue() slog.Value { return slog.StringValue(redacted) }

// Clear zeroes the secrets.
func (s *State) Clear() {
	clear(s.In.Secret)
	clear(s.Out.Secret)
}

// maxSequence is more records than can be sent.
const maxSequence = 1 << 48

// Validate returns an error if no connection has such a state.
func (s State) Validate() error {
	suite, ok := suites[s.Suite]
	if !ok {
		return fmt.Errorf("tls13: unknown cipher suite 0x%04x", s.Suite)
	}
	for _, h := range []Half{s.In, s.Out} {
		if len(h.Secret) != suite.secretLen {
			return fmt.Errorf("tls13: secret of %d bytes, want %d", len(h.Secret), suite.secretLen)
		}
		if h.Sequence >= maxSequence {
			return fmt.Errorf("tls13: sequence number %d is out of range", h.Sequence)
		}
	}
	return nil
}

// clone returns a copy that shares no secret.
func (h Half) clone() Half {
	h.Secret = slices.Clone(h.Secret)
	return h
}

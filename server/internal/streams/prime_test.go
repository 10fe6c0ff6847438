package streams

import (
	"bytes"
	"slices"
	"testing"

	"example.com/baton/server/internal/frames"
)

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	fields  = "\x82\x84\x86"
)

func list(p []byte) (list []frames.Frame) {
	follow(func(f frames.Frame) { f.Payload = bytes.Clone(f.Payload); list = append(list, f) }, p)
	return list
}

// What net/http gets and the client does not, and how it ends.
func TestAdopt(t *testing.T) {
	ping := [8]byte{7}
	own := append(setting(1, 0), setting(5, 16384)...)
	window := uint32(1000)
	table := uint32(100)
	small := values{}
	small[frames.SettingInitialWindowSize], small[frames.SettingHeaderTableSize] = &window, &table
	for _, test := range []struct {
		name    string
		state   State
		first   []byte // after the preface
		padding int
		last    []byte
		client  []byte
	}{
		{"nothing has happened", State{Send: 65535, Receive: 100_000, Own: own},
			frames.Append(nil, frames.Settings, 0, 0, nil), 0,
			frames.Append(nil, frames.Settings, ack, 0, nil), nil},
		{"a large window", State{Last: 9, Send: 1 << 30, Receive: 60_000, Own: own},
			slices.Concat(frames.Append(nil, frames.Settings, 0, 0, nil),
				frames.Append(nil, frames.WindowUpdate, 0, 0, number(1<<30-65535)),
				frames.Append(nil, frames.Headers, end|endHeaders, 9, []byte(fields))), 0,
			frames.Append(nil, frames.Settings, ack, 0, nil), frames.Append(nil, frames.WindowUpdate, 0, 0, number(40_000))},
		{"a small window, and smaller ones for streams", State{Last: 9, Send: 535, Receive: 100_000, Own: own, Settings: small},
			slices.Concat(frames.Append(nil, frames.Settings, 0, 0, setting(4, 1000)),
				frames.Append(nil, frames.Headers, end|endHeaders, 9, []byte(fields)),
				frames.Append(nil, frames.WindowUpdate, 0, 9, number(64_000))), 65_000,
			frames.Append(nil, frames.Settings, ack, 0, nil), nil},
		{"the only header block of the client", State{Last: 1, Send: 65535, Receive: 100_000, Own: own, Block: indexed},
			slices.Concat(frames.Append(nil, frames.Settings, 0, 0, nil),
				frames.Append(nil, frames.Headers, end|endHeaders, 1, indexed)), 0,
			frames.Append(nil, frames.Settings, ack, 0, nil), nil},
		{"other settings", State{Last: 9, Send: 65535, Receive: 99_999, Own: own[:6]},
			slices.Concat(frames.Append(nil, frames.Settings, 0, 0, nil),
				frames.Append(nil, frames.Headers, end|endHeaders, 9, []byte(fields))), 0, nil,
			slices.Concat(frames.Append(nil, frames.Settings, 0, 0, own), frames.Append(nil, frames.WindowUpdate, 0, 0, number(1)))},
	} {
		t.Run(test.name, func(t *testing.T) {
			// What net/http writes until the end of its response.
			written := slices.Concat(frames.Append(nil, frames.Settings, 0, 0, own),
				frames.Append(nil, frames.WindowUpdate, 0, 0, number(100_000-65535)), frames.Append(nil, frames.Settings, ack, 0, nil))
			if test.state.Last > 0 {
				written = frames.Append(written, frames.Headers, endHeaders, test.state.Last, encoder)
				written = frames.Append(written, frames.Data, end, test.state.Last, make([]byte, test.padding))
			}
			tableSize := uint32(4096)
			if test.state.Settings[1] != nil {
				tableSize = 100
			}
			last := frames.Append(test.last, frames.Settings, 0, 0, setting(1, 0))
			last = frames.Append(last, frames.Settings, 0, 0, setting(1, tableSize))
			last = frames.Append(last, frames.Ping, 0, 0, ping[:])
			answer := frames.Append(frames.Append(nil, frames.Settings, ack, 0, nil), frames.Ping, ack, 0, ping[:])
			for at := range written {
				if at > 200 && at < len(written)-20 {
					continue // within the padding
				}
				m := Adopt(test.state, preface, []byte(fields), ping)
				if got := m.Give(); string(got) != preface+string(test.first) {
					t.Fatalf("net/http is given %+v, want %+v", list(bytes.TrimPrefix(got, []byte(preface))), list(test.first))
				}
				if got := m.Padding(); got != test.padding {
					t.Errorf("got a padding of %d, want %d", got, test.padding)
				}
				for _, p := range [][]byte{written[:at], written[at:]} {
					if out, changed := m.Write(p); len(out) > 0 || !changed {
						t.Fatalf("the client gets %x", out)
					}
				}
				if got := m.Give(); !bytes.Equal(got, last) {
					t.Fatalf("at last net/http is given %+v, want %+v", list(got), list(last))
				}
				if _, ok := m.Export(); ok || m.AtRest() || !m.IsPriming() {
					t.Error("at rest before it has begun")
				}
				for _, other := range [][]byte{ // nothing else ends it
					frames.Append(nil, frames.Ping, 0, 0, ping[:]), frames.Append(nil, frames.Ping, ack, 0, make([]byte, 8)),
					frames.Append(nil, frames.RSTStream, ack, 0, ping[:]),
				} {
					if out, _ := m.Write(other); len(out) > 0 || !m.IsPriming() || len(m.Give()) > 0 {
						t.Fatalf("the client gets %x", out)
					}
				}
				out, _ := m.Write(answer)
				if !bytes.Equal(out, test.client) || m.IsPriming() {
					t.Fatalf("the client gets %+v, want %+v", list(out), list(test.client))
				}
				follow(m.Sent, out)
				if rests := m.AtRest(); rests != bytes.Equal(own, test.state.Own) {
					t.Errorf("then at rest: %t", rests)
				}
				m.Sync([8]byte{8})
				m.Write(frames.Append(nil, frames.Ping, ack, 0, []byte{8, 0, 0, 0, 0, 0, 0, 0}))
				if s, ok := m.Export(); ok && (s.Last != test.state.Last || s.Send != test.state.Send || s.Receive != 100_000) {
					t.Errorf("is exported as %+v", s)
				}
				if out, _ := m.Write(frames.Append(nil, frames.Headers, end|endHeaders, 11, encoder)); len(out) == 0 {
					t.Error("a response does not pass")
				}
				// The client's table is known to be empty, if there was no block that could have filled it.
				follow(m.Received, frames.Append(nil, frames.Headers, end|endHeaders, 11, indexed))
				follow(m.Sent, frames.Append(nil, frames.Headers, end|endHeaders, 11, encoder))
				if rests := m.AtRest(); rests != (bytes.Equal(own, test.state.Own) && len(test.state.Block) == 0 && (test.state.Last > 0 || m.first != nil)) {
					t.Errorf("after another request at rest: %t", rests)
				}
			}
		})
	}
}

// FuzzMachine has both sides send anything, in pieces of any size.
func FuzzMachine(f *testing.F) {
	var first bytes.Buffer
	first.Write(frames.Append(nil, frames.Settings, 0, 0, setting(1, 4096)))
	first.Write(frames.Append(nil, frames.Headers, end|endHeaders, 1, encoder))
	first.Write(frames.Append(nil, frames.Ping, ack, 0, make([]byte, 8)))
	f.Add(first.Bytes(), frames.Append(frames.Append(nil, frames.Settings, ack, 0, nil), frames.Headers, end|endHeaders, 1, noTable), uint8(3), false)
	f.Add(first.Bytes(), frames.Append(nil, frames.WindowUpdate, 0, 0, number(1<<31-1)), uint8(1), true)
	f.Fuzz(func(t *testing.T, written, received []byte, at uint8, adopted bool) {
		begin := func() *Machine {
			if adopted {
				return Adopt(State{Last: 1, Send: 100}, preface, []byte(fields), [8]byte{})
			}
			m := New()
			m.Sync([8]byte{})
			return m
		}
		whole, pieces := begin(), begin()
		want, _ := whole.Write(written)
		want = bytes.Clone(want)
		var got []byte
		for p := written; len(p) > 0; {
			n := min(len(p), 1+int(at))
			out, _ := pieces.Write(p[:n])
			got, p = append(got, out...), p[n:]
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("in pieces the client gets %x, else %x", got, want)
		}
		for _, m := range []*Machine{whole, pieces} {
			follow(m.Sent, want)
			follow(m.Received, received)
		}
		if whole.AtRest() != pieces.AtRest() || whole.Last() != pieces.Last() || whole.Open() != pieces.Open() {
			t.Error("what is known depends on the pieces")
		}
		s, ok := whole.Export()
		if ok && (!whole.AtRest() || !s.IsValid(1<<40) && s.Last%2 == 1) {
			t.Errorf("exported: %+v", s)
		}
	})
}

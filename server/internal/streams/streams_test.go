package streams

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"testing"

	"example.com/baton/server/internal/frames"
)

// A conversation is made of frames of the client and of the server.
type step func(m *Machine)

func follow(each func(frames.Frame), p []byte) {
	var f frames.Follower
	f.Follow(p, each)
}

// client is a frame that net/http gets, server one that it writes.
func client(kind, flags byte, stream uint32, payload ...byte) step {
	return func(m *Machine) { follow(m.Received, frames.Append(nil, kind, flags, stream, payload)) }
}

func server(kind, flags byte, stream uint32, payload ...byte) step {
	return func(m *Machine) {
		out, _ := m.Write(frames.Append(nil, kind, flags, stream, payload))
		follow(m.Sent, out)
	}
}

func number(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func setting(id uint16, value uint32) []byte { return appendSetting(nil, id, value) }

const (
	ack        = frames.FlagAck
	end        = frames.FlagEndStream
	endHeaders = frames.FlagEndHeaders
)

// The blocks of a client and of the server that have no table, and of one that has.
var (
	noTable    = []byte{0x20, 0x82}
	encoder    = []byte{0x21, 0x88}
	indexed    = []byte{0x82}
	settings   = server(frames.Settings, 0, 0, append(setting(frames.SettingMaxFrameSize, 16384), setting(frames.SettingHeaderTableSize, 4096)...)...)
	settingAck = client(frames.Settings, ack, 0)
	// begun is a connection on which the client has acknowledged the settings.
	begun = []step{settings, client(frames.Settings, 0, 0), server(frames.Settings, ack, 0), settingAck}
	// served is one that has had a request.
	served = append(begun[:4:4], client(frames.Headers, end|endHeaders, 1, noTable...), server(frames.Headers, end|endHeaders, 1, encoder...))
)

func TestAtRest(t *testing.T) {
	get := client(frames.Headers, end|endHeaders, 1, noTable...)
	post := client(frames.Headers, endHeaders, 1, noTable...)
	answer := server(frames.Headers, end|endHeaders, 1, encoder...)
	header := server(frames.Headers, endHeaders, 1, encoder...)
	early := []step{settings, client(frames.Headers, end|endHeaders, 1, indexed...), answer, settingAck}
	for _, test := range []struct {
		name  string
		from  []step
		steps []step
		want  bool
	}{
		{"a client that has sent nothing", nil, []step{settings}, false},
		{"settings that are not acknowledged", nil, []step{settings, client(frames.Settings, 0, 0)}, false},
		{"no request yet", begun, nil, true},
		{"a request", begun, []step{get}, false},
		{"an answer", served, nil, true},
		{"an answer that goes on", begun, []step{get, header}, false},
		{"an answer that has ended", begun, []step{get, header, server(frames.Data, 0, 1, 1), server(frames.Data, end, 1)}, true},
		{"trailers end an answer", begun, []step{get, header, server(frames.Headers, end|endHeaders, 1, indexed...)}, true},
		{"an upload", begun, []step{post, client(frames.Data, 0, 1, 1)}, false},
		{"an upload that has ended before the answer", begun, []step{post, client(frames.Data, end, 1, 1), header}, false},
		{"an answer to an upload that goes on", begun, []step{post, answer}, false},
		{"which then ends", begun, []step{post, answer, client(frames.Data, end, 1)}, true},
		{"which ends with trailers", begun, []step{post, answer, client(frames.Headers, end|endHeaders, 1, indexed...)}, true},
		{"which the server resets", begun, []step{post, answer, server(frames.RSTStream, 0, 1, number(0)...)}, true},
		{"a request that the client resets", begun, []step{get, client(frames.RSTStream, 0, 1, number(8)...)}, true},
		{"a reserved bit in the stream", begun, []step{get, client(frames.RSTStream, 0, 1|1<<31, number(8)...)}, true},
		{"two requests of which one is answered", begun, []step{get, client(frames.Headers, end|endHeaders, 3, indexed...), answer}, false},
		{"settings of the client, later", served, []step{client(frames.Settings, 0, 0, setting(4, 1)...), server(frames.Settings, ack, 0)}, true},
		{"frames of older streams", served, []step{client(frames.Headers, end|endHeaders, 1, noTable...), client(frames.WindowUpdate, 0, 1, number(1<<31-1)...)}, true},
		{"a first block that goes on", begun, []step{client(frames.Headers, end, 1, indexed...), client(frames.Continuation, endHeaders, 1, indexed...), answer}, false},
		{"a first block with a priority", begun, []step{client(frames.Headers, end|endHeaders|frames.FlagPriority, 1, 0, 0, 0, 0, 16, 0x82), answer}, true},
		{"a window that is used up by an upload", begun, []step{post, client(frames.Data, end, 1, make([]byte, 65535)...), answer}, true},
		{"a size of 31", begun, []step{client(frames.Headers, end|endHeaders, 1, 0x3f, 0, 0x82), answer,
			client(frames.Headers, end|endHeaders, 3, indexed...), server(frames.Headers, end|endHeaders, 3, indexed...)}, false},
		{"a size of 30", begun, []step{client(frames.Headers, end|endHeaders, 1, 0x3e, 0x82), answer}, true},
		{"a push", served, []step{server(frames.PushPromise, endHeaders, 1, number(2)...)}, false},

		{"a window at zero", served, []step{server(frames.Data, 0, 1, make([]byte, 65535)...)}, true},
		{"a window that is exceeded", served, []step{client(frames.WindowUpdate, 0, 0, number(1<<31-1)...)}, false},
		{"a window at its end", served, []step{client(frames.WindowUpdate, 0, 0, number(1<<31-65536)...)}, true},
		{"a client that sends more than it may", begun, []step{post, client(frames.Data, 0, 1, make([]byte, 65000)...), client(frames.Data, end, 1, make([]byte, 1000)...), answer}, false},

		{"a request before the client knows the settings", nil, early, true},
		{"and less window than on a new connection", nil, append(early[:4:4], server(frames.Data, 0, 1, 1)), false},
		{"a second one of which nothing is proved", nil, append(early[:4:4], client(frames.Headers, end|endHeaders, 3, indexed...),
			server(frames.Headers, end|endHeaders, 3, indexed...)), false},
		{"trailers of which nothing is proved", begun, []step{client(frames.Headers, endHeaders, 1, indexed...),
			client(frames.Headers, end|endHeaders, 1, indexed...), answer}, false},
		{"a header block that is too long to be kept", begun, []step{client(frames.Headers, end|endHeaders, 1, make([]byte, frames.FirstLen+1)...), answer}, false},
		{"which has limited its table since", nil, []step{settings, client(frames.Headers, end|endHeaders, 1, indexed...), answer, settingAck,
			client(frames.Headers, end|endHeaders, 3, noTable...), server(frames.Headers, end|endHeaders, 3, indexed...)}, true},
		{"a client that gives itself a table again", served, []step{
			client(frames.Headers, end|endHeaders, 3, 0x3f, 0xe1, 0x1f, 0x82), server(frames.Headers, end|endHeaders, 3, indexed...)}, false},
		{"in the same block", begun, []step{client(frames.Headers, end|endHeaders, 1, 0x20, 0x3f, 0xe1, 0x1f, 0x82), answer,
			client(frames.Headers, end|endHeaders, 3, indexed...), server(frames.Headers, end|endHeaders, 3, indexed...)}, false},
		{"two small sizes", begun, []step{client(frames.Headers, end|endHeaders, 1, 0x20, 0x21, 0x82), answer}, true},
		{"padding and priority before it", begun, []step{
			client(frames.Headers, end|endHeaders|frames.FlagPadded|frames.FlagPriority, 1, 1, 0, 0, 0, 0, 16, 0x20, 0x82, 0), answer}, true},
		{"padding that looks like it", begun, []step{
			client(frames.Headers, end|endHeaders|frames.FlagPadded, 1, 2, 0x82, 0x20, 0x82), answer,
			client(frames.Headers, end|endHeaders, 3, indexed...), server(frames.Headers, end|endHeaders, 3, indexed...)}, false},
		{"a block that begins in a CONTINUATION", begun, []step{
			client(frames.Headers, end, 1), client(frames.Continuation, endHeaders, 1, noTable...), answer}, false},
		{"net/http has a table", begun, []step{get, server(frames.Headers, end|endHeaders, 1, indexed...)}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := New()
			for _, s := range append(test.from[:len(test.from):len(test.from)], test.steps...) {
				s(m)
			}
			if got := m.AtRest(); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
			if _, ok := m.Export(); ok {
				t.Error("is exported before net/http has shown that it owes nothing")
			}
		})
	}
}

// net/http's settings leave the client no header table, whatever they were.
func TestSettingsForTheClient(t *testing.T) {
	other := setting(frames.SettingMaxFrameSize, 16384)
	want := frames.Append(nil, frames.Settings, 0, 0, append(setting(frames.SettingHeaderTableSize, 0), other...))
	for _, payload := range [][]byte{other, append(setting(1, 4096), other...), append(other[:6:6], setting(1, 0)...)} {
		sent := frames.Append(frames.Append(nil, frames.Settings, 0, 0, payload), frames.WindowUpdate, 0, 0, number(7))
		after := frames.Append(nil, frames.Ping, ack, 0, make([]byte, 8))
		for at := range sent {
			m := New()
			first, _ := m.Write(sent[:at])
			rest, _ := m.Write(sent[at:])
			if got := append(first, rest...); !bytes.Equal(got, append(want[:len(want):len(want)], sent[len(sent)-13:]...)) {
				t.Fatalf("split at %d: got %x", at, got)
			}
			if out, changed := m.Write(after); changed || !bytes.Equal(out, after) {
				t.Errorf("got %x, changed %t, of what follows", out, changed)
			}
		}
	}
}

func TestSync(t *testing.T) {
	ping := [8]byte{1, 2, 3}
	pong := server(frames.Ping, ack, 0, ping[:]...)
	passes := client(frames.WindowUpdate, 0, 0, number(1)...)
	sync := func(m *Machine) { m.Sync(ping) }
	for _, test := range []struct {
		name  string
		steps []step
		want  bool
	}{
		{"the answer", []step{sync, pong}, true},
		{"none", []step{sync}, false},
		{"that to another PING", []step{sync, server(frames.Ping, ack, 0, make([]byte, 8)...)}, false},
		{"a PING of net/http's own", []step{sync, server(frames.Ping, 0, 0, ping[:]...)}, false},
		{"none was asked for", []step{pong}, false},
		{"asked twice", []step{sync, sync, pong}, true},
		{"a frame of the client between", []step{sync, passes, pong}, false},
		{"a frame of the client since", []step{sync, pong, passes}, false},
		{"again, after that", []step{sync, passes, pong, sync, pong}, true},
	} {
		m := New()
		for _, s := range append(served[:len(served):len(served)], test.steps...) {
			s(m)
		}
		if _, ok := m.Export(); ok != test.want {
			t.Errorf("%s: exported %t, want %t", test.name, ok, test.want)
		}
		m.Write(frames.Append(nil, frames.Ping, ack, 0, ping[:]))
		if out, _ := m.Write(frames.Append(nil, frames.Ping, ack, 0, ping[:])); len(out) == 0 {
			t.Errorf("%s: the client gets no answers any more", test.name)
		}
	}
}

// export returns the state of a connection after some steps.
func export(t *testing.T, steps ...step) State {
	t.Helper()
	m := New()
	for _, s := range append(steps, func(m *Machine) { m.Sync([8]byte{9}) }, server(frames.Ping, ack, 0, 9, 0, 0, 0, 0, 0, 0, 0)) {
		s(m)
	}
	s, ok := m.Export()
	if !ok {
		t.Fatal("not exported")
	}
	p, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again State
	if err := json.Unmarshal(p, &again); err != nil || !reflect.DeepEqual(s, again) {
		t.Fatalf("got %+v, %v from %s", again, err, p)
	}
	return s
}

func TestExport(t *testing.T) {
	s := export(t, append(served[:len(served):len(served)],
		client(frames.Settings, 0, 0, append(setting(4, 1000), append(setting(1, 0), setting(99, 5)...)...)...),
		client(frames.Settings, 0, 0, setting(4, 2000)...),
		client(frames.Headers, endHeaders, 7, indexed...), client(frames.Data, end|frames.FlagPadded, 7, 1, 2, 3),
		server(frames.Headers, endHeaders, 7, indexed...), server(frames.Data, end, 7, make([]byte, 100)...),
		server(frames.WindowUpdate, 0, 0, number(1000)...), server(frames.WindowUpdate, 0, 7, number(5)...),
		client(frames.WindowUpdate, 0, 0, number(10|1<<31)...), client(frames.WindowUpdate, 0, 7, number(50)...))...)
	var want State
	table, window := uint32(0), uint32(2000)
	want.Last, want.Send, want.Receive = 7, 65535-100+10, 65535-3+1000
	want.Settings[1], want.Settings[4] = &table, &window
	want.Own = append(setting(1, 0), setting(5, 16384)...)
	if !reflect.DeepEqual(s, want) || !s.IsValid(1<<20) || s.IsValid(1000) {
		t.Errorf("got %+v, want %+v", s, want)
	}
	for name, s := range map[string]State{
		"no stream, and no window":      {Send: 65534},
		"more window than there is":     {Last: 1, Send: 65535, Receive: 1<<20 + 1},
		"less than none for the client": {Last: 1, Send: 65535, Receive: -1},
		"even stream":                   {Last: 2, Send: 65535},
		"stream out of range":           {Last: 1<<31 + 1, Send: 65535},
		"negative window":               {Last: 1, Send: -1},
		"window out of range":           {Last: 1, Send: 1 << 31},
		"small, without a stream":       {Send: 65534},
		"a part of a setting":           {Send: 65535, Own: []byte{1}},
		"a block, and no stream":        {Send: 65535, Block: indexed},
		"a block, and no window":        {Last: 1, Send: 65534, Block: indexed},
		"a block too long":              {Last: 1, Send: 65535, Block: make([]byte, frames.FirstLen+1)},
	} {
		if s.IsValid(1 << 20) {
			t.Errorf("%s: is valid", name)
		}
	}
}

// The least and the most that a state may have.
func TestIsValid(t *testing.T) {
	for name, s := range map[string]State{
		"new":                    {Send: initialWindow},
		"the last stream":        {Last: 1<<31 - 1},
		"no window":              {Last: 1},
		"stream 3":               {Last: 3},
		"the largest window":     {Last: 1, Send: maxWindow},
		"all that it may send":   {Last: 1, Receive: 1 << 20},
		"the longest block":      {Last: 1, Send: initialWindow, Block: make([]byte, frames.FirstLen)},
		"a new one with windows": {Send: maxWindow, Receive: 1 << 20},
	} {
		if !s.IsValid(1 << 20) {
			t.Errorf("%s: is not valid", name)
		}
	}
}

func TestOpenSince(t *testing.T) {
	m := New()
	for _, s := range append(begun[:4:4], client(frames.Headers, end|endHeaders, 3, noTable...), client(frames.Headers, end|endHeaders, 5, noTable...)) {
		s(m)
	}
	for id, want := range map[uint32]bool{1: true, 2: true, 3: false, 4: false, 5: false} {
		if got := m.OpenSince(id); got != want {
			t.Errorf("streams 3 and 5 are open: since %d: got %t", id, got)
		}
	}
	if !New().OpenSince(5) {
		t.Error("no stream is open: got false")
	}
}

// The client gets nothing of the PING that net/http is given, nor does net/http get more than one at a time.
func TestSyncIsNotSeen(t *testing.T) {
	ping := [8]byte{1, 2, 3}
	m := New()
	for _, s := range begun {
		s(m)
	}
	m.Give()
	for range 2 {
		m.Sync(ping)
	}
	if got, want := m.Give(), frames.Append(nil, frames.Ping, 0, 0, ping[:]); !bytes.Equal(got, want) || !m.IsSyncing() {
		t.Errorf("net/http is given %x, want %x", got, want)
	}
	if out, _ := m.Write(frames.Append(nil, frames.Ping, ack, 0, ping[:])); len(out) > 0 || m.IsSyncing() {
		t.Errorf("the client gets %x", out)
	}
	own := frames.Append(nil, frames.Settings, 0, 0, setting(frames.SettingHeaderTableSize, 0))
	m.Sync(ping)
	acked := frames.Append(nil, frames.Settings, ack, 0, nil)
	if out, _ := m.Write(append(acked, own...)); !bytes.Equal(out, append(acked, own...)) {
		t.Errorf("the client gets %x", out)
	}
	if New().Padding() != 0 || New().IsSyncing() {
		t.Error("a machine that begins has a padding or a PING")
	}
}

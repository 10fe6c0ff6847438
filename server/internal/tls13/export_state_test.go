package tls13

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// TestRefusals exports a connection that stays again and again.
func TestRefusals(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	for range 5 {
		if _, ok := c.Export(); !ok {
			t.Fatal("not at rest")
		}
		c.Resume()
		layer.toRead = append(p.update(updateRequested), p.data("question")...)
		if got, _ := readAll(c); string(got) != "question" {
			t.Errorf("received %q", got)
		}
		if _, ok := c.Export(); !ok { // with the answer to the KeyUpdate still to be sent
			t.Fatal("not at rest")
		}
		c.Resume()
		c.Write([]byte("answer"))
		if got := p.receive(t, layer.sent()); got.data != "answer" || got.updates != 1 {
			t.Errorf("sent %+v", got)
		}
	}
}

// TestRequestMigrates has one process receive the request for a KeyUpdate and the next answer it.
func TestRequestMigrates(t *testing.T) {
	state := newState(tls.TLS_AES_256_GCM_SHA384)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	layer.toRead = p.update(updateRequested)
	readAll(c)
	for range 3 {
		state, ok := c.Export()
		if !ok || !state.UpdateRequested {
			t.Fatal(ok, state)
		}
		c.Discard()
		c = newConn(t, layer, state)
	}
	c.Write([]byte("answer"))
	if got := p.receive(t, layer.sent()); got.data != "answer" || got.updates != 1 {
		t.Errorf("sent %+v", got)
	}
	if state, ok := c.Export(); !ok || state.UpdateRequested {
		t.Error("the request is not answered")
	}
}

// TestDiscard checks that nothing is written or left of a connection that goes on elsewhere.
func TestDiscard(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	exported, ok := c.Export()
	if !ok {
		t.Fatal("not at rest")
	}
	in, out := c.in.Secret, c.out.Secret
	c.Discard()
	zero := make([]byte, len(in))
	if !bytes.Equal(in, zero) || !bytes.Equal(out, zero) || c.in.aead != nil || c.out.aead != nil {
		t.Error("the keys are still there")
	}
	if bytes.Equal(exported.In.Secret, zero) || bytes.Equal(exported.Out.Secret, zero) {
		t.Error("what was exported is zeroed")
	}
	layer.toRead = p.data("for the successor")
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read: %d and %v", n, err)
	}
	if n, err := c.Write([]byte("no")); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %d and %v", n, err)
	}
	c.CloseWrite()
	c.Close()
	if _, ok := c.Export(); ok {
		t.Error("was exported once more")
	}
	if len(layer.written) > 0 || len(layer.toRead) == 0 {
		t.Error("something was written or read")
	}
}

// TestExported has Reads and Writes wait for the answer, and a Close not wait.
func TestExported(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprintf("taken=%t", taken), func(t *testing.T) {
			state := newState(tls.TLS_AES_128_GCM_SHA256)
			layer, p := newMemory(), newPeer(t, state)
			c := newConn(t, layer, state)
			layer.toRead = p.data("question")
			if _, ok := c.Export(); !ok {
				t.Fatal("not at rest")
			}
			if _, ok := c.Export(); ok {
				t.Fatal("was exported twice")
			}
			got := make(chan string, 2)
			go func() {
				p := make([]byte, 100)
				n, err := c.Read(p)
				got <- fmt.Sprintf("read %s %v", p[:n], err)
			}()
			go func() {
				n, err := c.Write([]byte("answer"))
				got <- fmt.Sprintf("wrote %d %t", n, err == nil)
			}()
			select {
			case result := <-got:
				t.Error("did not wait:", result)
			default:
			}
			want := []string{"read question <nil>", "wrote 6 true"}
			if taken {
				want = []string{"read  EOF", "wrote 0 false"}
				c.Discard()
			} else {
				c.Resume()
			}
			results := []string{<-got, <-got}
			slices.Sort(results)
			if !slices.Equal(results, want) {
				t.Errorf("%q, want %q", results, want)
			}
			if wrote := len(layer.written) > 0; wrote == taken {
				t.Errorf("was written: %t", wrote)
			}
		})
	}
}

// TestCloseOfExported closes only the copy.
func TestCloseOfExported(t *testing.T) {
	layer := newMemory()
	c := newConn(t, layer, newState(tls.TLS_AES_128_GCM_SHA256))
	c.Export()
	c.Close()
	if len(layer.written) > 0 {
		t.Error("something was written")
	}
}

// TestExportWhileBusy exports no connection that is read or written.
func TestExportWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := newConn(t, near, newState(tls.TLS_AES_128_GCM_SHA256))
		done := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		if _, ok := c.Export(); ok {
			t.Error("exported during a Read")
		}
		far.Close()
		<-done

		near, far = net.Pipe()
		c = newConn(t, near, newState(tls.TLS_AES_128_GCM_SHA256))
		go func() {
			_, err := c.Write(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		if _, ok := c.Export(); ok {
			t.Error("exported during a Write")
		}
		far.Close()
		<-done
	})
}

// TestExportAfterClose exports nothing that has ended.
func TestExportAfterClose(t *testing.T) {
	c := newConn(t, newMemory(), newState(tls.TLS_AES_128_GCM_SHA256))
	c.CloseWrite()
	if _, ok := c.Export(); ok {
		t.Error("exported after a close_notify")
	}
}

func TestValidate(t *testing.T) {
	valid := newState(tls.TLS_AES_256_GCM_SHA384)
	if err := valid.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*State){
		"no suite":               func(s *State) { s.Suite = 0 },
		"TLS 1.2":                func(s *State) { s.Suite = tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 },
		"AES-128":                func(s *State) { s.Suite = tls.TLS_AES_128_GCM_SHA256 },
		"no secret":              func(s *State) { s.In.Secret = nil },
		"short secret":           func(s *State) { s.Out.Secret = s.Out.Secret[1:] },
		"long secret":            func(s *State) { s.Out.Secret = append(s.Out.Secret, 0) },
		"high sequence":          func(s *State) { s.In.Sequence = 1 << 63 },
		"first that is too high": func(s *State) { s.In.Sequence = maxSequence },
		"last sequence":          func(s *State) { s.Out.Sequence = 1<<64 - 1 },
	} {
		invalid := newState(valid.Suite)
		change(&invalid)
		if _, err := New(newMemory(), invalid); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(newMemory(), State{}); err == nil {
		t.Error("no error for an empty state")
	}
}

// TestJSON has the names in the state stay as they are: they are a protocol.
func TestJSON(t *testing.T) {
	state := State{Suite: tls.TLS_AES_128_GCM_SHA256, In: Half{Secret("in"), 1}, Out: Half{Secret("out"), 2}, UpdateRequested: true}
	got, err := json.Marshal(state)
	want := `{"suite":4865,"in":{"secret":"aW4=","sequence":1},"out":{"secret":"b3V0","sequence":2},"update_requested":true}`
	if err != nil || string(got) != want {
		t.Errorf("got %s and %v", got, err)
	}
	var back State
	if err := json.Unmarshal(got, &back); err != nil || string(back.Out.Secret) != "out" || !back.UpdateRequested {
		t.Errorf("%v: %v", err, back)
	}
}

// TestSecretsAreNotFormatted formats and logs all that has a secret in it.
func TestSecretsAreNotFormatted(t *testing.T) {
	const hidden = "topsecret-topsecret-topsecret-32"
	state := State{Suite: tls.TLS_AES_128_GCM_SHA256, In: Half{Secret: Secret(hidden)}, Out: Half{Secret: Secret(hidden)}}
	c := newConn(t, newMemory(), state)
	var log bytes.Buffer
	handlers := []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)}
	var text strings.Builder
	for _, v := range []any{state, &state, state.In, &state.In, state.In.Secret, &state.In.Secret, c, struct{ S State }{state}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U"} {
			fmt.Fprintf(&text, verb, v)
		}
		if _, wrapped := v.(struct{ S State }); wrapped { // its JSON is meant to have them
			continue
		}
		for _, h := range handlers {
			slog.New(h).Info("state", "value", v)
		}
	}
	text.WriteString(state.In.Secret.String() + state.In.Secret.GoString())
	for _, encoded := range []string{hidden, "746f70", "746F70", "116 111 112", "dG9wc2Vj", "0x74, 0x6f", "1110100"} {
		if strings.Contains(text.String(), encoded) || strings.Contains(log.String(), encoded) {
			t.Errorf("%s was formatted: %s %s", encoded, text.String(), log.String())
		}
	}
	if got := log.String(); !strings.Contains(got, redacted) || strings.Contains(got, "panicked") || !strings.Contains(text.String(), "tls13.Conn") {
		t.Errorf("got %s %s, want placeholders", text.String(), got)
	}
	state.Clear()
	if state.In.Secret[0] != 0 || state.Out.Secret[31] != 0 {
		t.Error("Clear has cleared nothing")
	}
}

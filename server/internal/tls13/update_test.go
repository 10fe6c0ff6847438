package tls13

import (
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// TestKeyUpdateIsAnswered has a peer request KeyUpdates, which it gets with the next data.
func TestKeyUpdateIsAnswered(t *testing.T) {
	for _, suite := range suiteIDs {
		for _, tt := range []struct {
			name    string
			updates []byte // that are received before a Write
			want    int    // that are sent
		}{
			{"none", nil, 0},
			{"not requested", []byte{0}, 0},
			{"requested", []byte{1}, 1},
			{"requested again while silent", []byte{1, 1, 1}, 1},
			{"requested and not", []byte{0, 1, 0}, 1},
		} {
			t.Run(tt.name, func(t *testing.T) {
				state := newState(suite)
				layer, p := newMemory(), newPeer(t, state)
				c := newConn(t, layer, state)
				for range 3 {
					for _, requested := range tt.updates {
						layer.toRead = append(layer.toRead, p.update(requested)...)
					}
					layer.toRead = append(layer.toRead, p.data("question")...)
					if got, err := readAll(c); string(got) != "question" || !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatalf("received %q and %v", got, err)
					}
					if len(layer.written) > 0 {
						t.Error("a Read has written")
					}
					c.Write([]byte("answer"))
					if len(layer.written) != 1 {
						t.Errorf("%d writes, want one", len(layer.written))
					}
					if got := p.receive(t, layer.sent()); got.data != "answer" || got.updates != tt.want {
						t.Errorf("sent %+v, want %d KeyUpdates", got, tt.want)
					}
					c.Write([]byte("more"))
					if got := p.receive(t, layer.sent()); got.data != "more" || got.updates != 0 {
						t.Errorf("then sent %+v", got)
					}
				}
			})
		}
	}
}

// TestKeyUpdateInPieces splits a KeyUpdate over records in every way.
func TestKeyUpdateInPieces(t *testing.T) {
	message := []byte{typeKeyUpdate, 0, 0, 1, updateNotRequested}
	for splits := range 1 << (len(message) - 1) {
		state := newState(tls.TLS_AES_128_GCM_SHA256)
		layer, p := newMemory(), newPeer(t, state)
		c := newConn(t, layer, state)
		begin := 0
		for i := range message {
			if i == len(message)-1 || splits>>i&1 == 1 {
				layer.toRead = append(layer.toRead, p.record(typeHandshake, message[begin:i+1]...)...)
				begin = i + 1
			}
		}
		p.out.update()
		layer.toRead = append(layer.toRead, p.data("data")...)
		if got, err := readAll(c); string(got) != "data" {
			t.Errorf("splits %04b: %q and %v", splits, got, err)
		}
	}
}

// TestKeyUpdateBeforeTheLimit writes when a key has protected as many records as it may.
func TestKeyUpdateBeforeTheLimit(t *testing.T) {
	for _, suite := range suiteIDs {
		for _, before := range []uint64{0, 1, 2, 3} {
			state := newState(suite)
			state.Out.Sequence = maxRecords - before
			layer, p := newMemory(), newPeer(t, state)
			p.in.Sequence = state.Out.Sequence
			c := newConn(t, layer, state)
			updates := 0
			for range 5 {
				c.Write([]byte("data"))
				got := p.receive(t, layer.sent())
				if got.data != "data" {
					t.Fatalf("sent %+v", got)
				}
				if updates += got.updates; c.out.Sequence > maxRecords {
					t.Errorf("%d records with a key", c.out.Sequence)
				}
			}
			if updates != 1 {
				t.Errorf("%d KeyUpdates, want 1", updates)
			}
		}
	}
}

// TestKeyUpdatesOfCryptoTLS has a client of crypto/tls receive KeyUpdates, and send them when
// they are requested, while the server migrates.
func TestKeyUpdatesOfCryptoTLS(t *testing.T) {
	nc, ns := tcpPair(t)
	client, state := handshake(t, nc, ns)
	random := rand.New(rand.NewPCG(1, 2))
	server := newConn(t, ns, state)
	want := 0 // KeyUpdates of the client
	for i := range 200 {
		if random.IntN(2) == 0 { // as a KeyUpdate before the limit, but requesting another
			requested := byte(random.IntN(2))
			want += int(requested)
			wire := server.out.seal(nil, typeHandshake, []byte{typeKeyUpdate, 0, 0, 1, requested})
			server.out.update()
			if _, err := ns.Write(wire); err != nil {
				t.Fatal(err)
			}
		}
		p := make([]byte, 1+random.IntN(100))
		if _, err := server.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, p); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if _, err := client.Write(p); err != nil {
			t.Fatal(err)
		}
		before := string(server.in.Secret)
		if _, err := io.ReadFull(server, p); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if string(server.in.Secret) != before {
			want--
		}
		if random.IntN(3) == 0 {
			state, ok := server.Export()
			if !ok {
				t.Fatal("not at rest")
			}
			if random.IntN(2) == 0 {
				server.Resume()
				continue
			}
			server.Discard()
			server = newConn(t, ns, state)
		}
	}
	if want != 0 {
		t.Errorf("%d KeyUpdates of the client are missing", want)
	}
}

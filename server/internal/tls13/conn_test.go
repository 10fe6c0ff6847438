package tls13

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
)

// pattern returns bytes that differ from place to place.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i>>8 ^ i)
	}
	return p
}

// echo reads and writes until the end of what is received, and ends writing.
func echo(c interface {
	net.Conn
	CloseWrite() error
}) error {
	if _, err := io.Copy(struct{ io.Writer }{c}, c); err != nil {
		return err
	}
	return c.CloseWrite()
}

func TestEcho(t *testing.T) {
	for _, suite := range suiteIDs {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			for _, n := range []int{0, 1, 100, smallLen, maxPlaintext - 1, maxPlaintext, maxPlaintext + 1, batchLen, batchLen + 1, 1 << 20} {
				nc, ns := tcpPair(t)
				state := newState(suite)
				server, client := newConn(t, ns, state), newConn(t, nc, state.peer())
				done := make(chan error, 2)
				go func() { done <- echo(server) }()
				go func() {
					if _, err := client.Write(pattern(n)); err != nil {
						t.Error(err)
					}
					done <- client.CloseWrite()
				}()
				got, err := io.ReadAll(client)
				if err != nil || !bytes.Equal(got, pattern(n)) {
					t.Errorf("got %d bytes and %v, want %d", len(got), err, n)
				}
				for range 2 {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// TestMigration has a client of crypto/tls talk to one server after another.
func TestMigration(t *testing.T) {
	nc, ns := tcpPair(t)
	client, state := handshake(t, nc, ns)
	for range 10 {
		server := newConn(t, ns, state)
		if _, err := client.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 8)
		if _, err := io.ReadFull(server, got); err != nil {
			t.Fatal(err)
		}
		server.Write([]byte("answer"))
		if _, err := io.ReadFull(client, got[:6]); err != nil || string(got[:6]) != "answer" {
			t.Fatal(err, string(got))
		}
		exported, ok := server.Export()
		if !ok {
			t.Fatal("not at rest")
		}
		text, err := json.Marshal(exported)
		if err != nil {
			t.Fatal(err)
		}
		server.Discard()
		if _, err := server.Read(got); !errors.Is(err, io.EOF) {
			t.Errorf("Read of the old one: %v", err)
		}
		if _, err := server.Write(got); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write of the old one: %v", err)
		}
		state = State{}
		if err := json.Unmarshal(text, &state); err != nil {
			t.Fatal(err)
		}
	}
}

package server

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"example.com/baton/server/internal/tls13"
)

// hidden is a pattern to look for in the memory of this process, which does not contain it.
type hidden []byte

func hide(pattern []byte) hidden {
	h := make(hidden, len(pattern))
	for i, b := range pattern {
		h[i] = ^b
	}
	return h
}

// found returns how often the pattern is in memory that can be written to.
func (h hidden) found(t *testing.T) (n int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	chunk := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); !strings.HasPrefix(mode, "rw") || to-from > 1<<30 { // the race detector has terabytes
			continue
		}
		// Each chunk but the first begins within the one before.
		for at := from; at < to; at += int64(len(chunk) - len(h)) {
			got, err := memory.ReadAt(chunk[:min(int64(len(chunk)), to-at)], at)
			if err != nil && err != io.EOF {
				break
			}
			for i := range chunk[:got] {
				chunk[i] = ^chunk[i] // so that the chunk itself is not found
			}
			n += bytes.Count(chunk[:got], h)
		}
	}
	clear(chunk)
	return n
}

// Neither the secrets of a connection nor what they look like on their way are left in the
// memory of a process that has sent or received them.
func TestTransferLeavesNoSecrets(t *testing.T) {
	secret := make([]byte, 48)
	rand.Read(secret)
	text := base64.StdEncoding.AppendEncode(nil, secret)
	raw, encoded := hide(secret), hide(text)
	clear(text)
	if raw.found(t) == 0 {
		t.Fatal("a secret that is there is not found")
	}

	half := func() tls13.Half { return tls13.Half{Secret: bytes.Clone(secret), Sequence: 7} }
	sent := transfer{TLS: &tlsState{Records: tls13.State{Suite: tls.TLS_AES_256_GCM_SHA384, In: half(), Out: half()}}}
	clear(secret)
	state, err := sent.encode()
	if err != nil {
		t.Fatal(err)
	}
	sent.clear()
	received, err := decodeTransfer(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := received.TLS.Records.Validate(); err != nil {
		t.Errorf("received: %v", err)
	}
	same := hide(received.TLS.Records.Out.Secret)
	if !bytes.Equal(same, raw) {
		t.Error("received another secret")
	}
	received.clear()
	state.Clear()
	if n := raw.found(t); n > 0 {
		t.Errorf("%d copies of the secret are left", n)
	}
	if n := encoded.found(t); n > 0 {
		t.Errorf("%d copies of the secret in base64 are left", n)
	}
}

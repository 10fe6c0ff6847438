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
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/baton/server/internal/tls13"
)

// hidden is a pattern to look for in the memory of this process. It is beside where found
// looks.
type hidden struct {
	aside []byte // mapped for this
	n     int    // length of the pattern, with which it begins
}

func hide(t *testing.T, pattern []byte) hidden {
	t.Helper()
	aside, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(aside) })
	return hidden{aside, copy(aside, pattern)}
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
	pattern, chunk := h.aside[:h.n], h.aside[h.n:]
	defer clear(chunk)
	scan := func(from, to int64) {
		// Each chunk but the first begins within the one before.
		for at := from; at < to; at += int64(len(chunk) - h.n + 1) {
			got, err := memory.ReadAt(chunk[:min(int64(len(chunk)), to-at)], at)
			if err != nil && err != io.EOF {
				return
			}
			n += bytes.Count(chunk[:got], pattern)
		}
	}
	own := int64(uintptr(unsafe.Pointer(&h.aside[0])))
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode)
		if !strings.HasPrefix(mode, "rw") || to-from > 1<<30 { // the race detector has terabytes
			continue
		}
		if from <= own && own < to {
			scan(from, own)
			from = own + int64(len(h.aside))
		}
		scan(from, to)
	}
	return n
}

// Neither the secrets of a connection nor what they look like on their way are left in the
// memory of a process that has sent or received them.
func TestTransferLeavesNoSecrets(t *testing.T) {
	secret := make([]byte, 48)
	rand.Read(secret)
	text := base64.StdEncoding.AppendEncode(nil, secret)
	raw, encoded := hide(t, secret), hide(t, text)
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
	if !bytes.Equal(received.TLS.Records.Out.Secret, raw.aside[:raw.n]) {
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

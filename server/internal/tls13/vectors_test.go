package tls13

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"io"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// vector is what one end of RFC 8448, section 3, has and sends after the handshake. The server
// has sent a session ticket before.
type vector struct {
	secret, iv  string
	sequence    uint64
	data, close string // records
}

var clientVector = vector{
	secret: "9e 40 64 6c e7 9a 7f 9d c0 5a f8 88 9b ce 65 52 87 5a fa 0b 06 df 00 87 f7 92 eb b7 c1 75 04 a5",
	iv:     "5b 78 92 3d ee 08 57 90 33 e5 23 d9",
	data: `17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab
		3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d
		ea e6 3a ee bb 21 69 49 15 e4`,
	close: "17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3",
}

var serverVector = vector{
	secret:   "a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32 82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43",
	iv:       "cf 78 2b 88 dd 83 54 9a ad f1 e9 84",
	sequence: 1,
	data: `17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b
		36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3
		32 54 0d d0 32 e1 67 c2 95 5d`,
	close: "17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9",
}

func (v vector) half(t testing.TB) Half {
	return Half{Secret: unhex(t, v.secret), Sequence: v.sequence}
}

func TestVectors(t *testing.T) {
	payload := make([]byte, 50)
	for i := range payload {
		payload[i] = byte(i)
	}
	for name, v := range map[string]struct{ in, out vector }{
		"server": {clientVector, serverVector},
		"client": {serverVector, clientVector},
	} {
		t.Run(name, func(t *testing.T) {
			layer := newMemory()
			c := newConn(t, layer, State{Suite: tls.TLS_AES_128_GCM_SHA256, In: v.in.half(t), Out: v.out.half(t)})
			if !bytes.Equal(c.in.iv[:], unhex(t, v.in.iv)) || !bytes.Equal(c.out.iv[:], unhex(t, v.out.iv)) {
				t.Errorf("IVs %x and %x", c.in.iv, c.out.iv)
			}
			layer.toRead = unhex(t, v.in.data+v.in.close)
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, payload) {
				t.Errorf("received %x and %v", got, err)
			}
			c.Write(payload)
			if got := layer.sent(); !bytes.Equal(got, unhex(t, v.out.data)) {
				t.Errorf("sent %x", got)
			}
			c.CloseWrite()
			if got := layer.sent(); !bytes.Equal(got, unhex(t, v.out.close)) {
				t.Errorf("closed with %x", got)
			}
		})
	}
}

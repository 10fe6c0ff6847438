package tls13

import (
	"crypto/cipher"
	"flag"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

// nonces collects the pairs of key and sequence number, as part of the nonce, that have
// protected a record, whichever connections have them.
var nonces struct {
	sync.Mutex
	used   map[string]int // nil: they are not collected
	reused int
}

// recorder is an AEAD that has its nonces collected.
type recorder struct {
	cipher.AEAD
	key string
}

func (r recorder) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	nonces.Lock()
	if nonces.used != nil {
		pair := r.key + string(nonce)
		if nonces.used[pair]++; nonces.used[pair] > 1 {
			nonces.reused++
		}
	}
	nonces.Unlock()
	return r.AEAD.Seal(dst, nonce, plaintext, additionalData)
}

// collectNonces returns how many nonces are used while f runs, and how many more than once.
func collectNonces(f func()) (used, reused int) {
	nonces.Lock()
	nonces.used, nonces.reused = make(map[string]int), 0
	nonces.Unlock()
	f()
	nonces.Lock()
	defer nonces.Unlock()
	used, nonces.used = len(nonces.used), nil
	return used, nonces.reused
}

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		for _, s := range suites {
			aead := s.aead
			s.aead = func(key []byte) (cipher.AEAD, error) {
				a, err := aead(key)
				return recorder{a, string(key)}, err
			}
		}
	}
	os.Exit(m.Run())
}

// TestNonceReuseIsNoticed has two connections write with the same state.
func TestNonceReuseIsNoticed(t *testing.T) {
	state := newState(suiteIDs[0])
	used, reused := collectNonces(func() {
		for range 2 {
			c := newConn(t, newMemory(), state)
			c.Write([]byte("one"))
			c.Write([]byte("two"))
		}
	})
	if used != 2 || reused != 2 {
		t.Errorf("%d nonces were used, %d again", used, reused)
	}
}

// TestNonces leads connections through lives of all kinds: offers that are taken, refused, or
// never answered by a successor that dies, and processes that are killed with what they have.
func TestNonces(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		state := newState(suiteIDs[seed%3])
		if seed%5 == 0 {
			state.Out.Sequence = maxRecords - 5
		}
		layer, p := newMemory(), newPeer(t, state)
		p.in.Sequence = state.Out.Sequence
		written, received := 0, 0
		used, reused := collectNonces(func() {
			c := newConn(t, layer, state)
			for alive := true; alive; {
				switch random.IntN(8) {
				case 0, 1:
					n, _ := c.Write(make([]byte, random.IntN(3*maxPlaintext)))
					written += n
				case 2:
					layer.toRead = append(layer.toRead, p.update(byte(random.IntN(2)))...)
				case 3:
					layer.toRead = append(layer.toRead, p.data("data")...)
					readAll(c)
				case 4:
					readAll(c)
				case 5, 6: // an offer
					offered, ok := c.Export()
					if !ok {
						continue
					}
					switch random.IntN(3) {
					case 0: // refused
						c.Resume()
					case 1: // the successor has accepted it, and dies before it has answered
						newConn(t, layer, offered)
						c.Resume()
					case 2: // taken
						old := c
						c = newConn(t, layer, offered)
						old.Discard()
						old.Write([]byte("late"))
						old.Close()
					}
				case 7: // the end, in several ways
					if random.IntN(4) > 0 {
						continue
					}
					alive = false
					switch random.IntN(4) {
					case 0: // killed
					case 1:
						c.Close()
					case 2:
						layer.toRead = append(layer.toRead, 0, 0, 0, 0, 0)
						readAll(c)
						c.Write([]byte("late"))
						c.Close()
					case 3:
						layer.take, layer.err = 10, os.ErrDeadlineExceeded
						c.Write([]byte("failing"))
						layer.take = -1
						c.Write([]byte("late"))
						c.Close()
					}
				}
			}
			received = len(p.receive(t, layer.sent()).data)
		})
		if reused > 0 {
			t.Fatalf("seed %d: %d of %d nonces were used again", seed, reused, used)
		}
		if received != written {
			t.Fatalf("seed %d: received %d bytes, want %d", seed, received, written)
		}
	}
}

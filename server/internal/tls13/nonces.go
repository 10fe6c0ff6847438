//go:build nonces

package tls13

import (
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"os"
)

// A program that is built for tests with the tag nonces appends a line for each record that it
// protects to the file that BATON_NONCES names: a hash of the key, and the nonce. A line that
// is there twice, whichever processes have written it, is a nonce that was reused.
func init() {
	name := os.Getenv("BATON_NONCES")
	if name == "" {
		return
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	for _, s := range suites {
		aead := s.aead
		s.aead = func(key []byte) (cipher.AEAD, error) {
			a, err := aead(key)
			return recorded{a, sha256.Sum256(key), file}, err
		}
	}
}

// recorded is an AEAD that writes what it uses to a file.
type recorded struct {
	cipher.AEAD
	key  [sha256.Size]byte // hashed
	file *os.File
}

// Seal writes before it returns, one line with one write, so that no record is sent without it.
func (r recorded) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	if _, err := fmt.Fprintf(r.file, "%x %x\n", r.key[:16], nonce); err != nil {
		panic(err)
	}
	return r.AEAD.Seal(dst, nonce, plaintext, additionalData)
}

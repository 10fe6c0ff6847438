package tls13

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// suite is a cipher suite (RFC 8446, appendix B.4).
type suite struct {
	hash      func() hash.Hash
	secretLen int // the hash's
	keyLen    int
	aead      func(key []byte) (cipher.AEAD, error)
}

var suites = map[uint16]*suite{
	tls.TLS_AES_128_GCM_SHA256:       {sha256.New, sha256.Size, 16, newGCM},
	tls.TLS_AES_256_GCM_SHA384:       {sha512.New384, sha512.Size384, 32, newGCM},
	tls.TLS_CHACHA20_POLY1305_SHA256: {sha256.New, sha256.Size, chacha20poly1305.KeySize, chacha20poly1305.New},
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

const (
	nonceLen = 12 // of all suites
	tagLen   = 16 // of all suites
)

// traffic protects the records of one direction.
type traffic struct {
	suite *suite
	Half
	aead   cipher.AEAD
	iv     [nonceLen]byte
	buffer [nonceLen]byte // the nonce of the record under way
}

func newTraffic(s *suite, h Half) (traffic, error) {
	t := traffic{suite: s, Half: h.clone()}
	return t, t.derive()
}

// derive derives key and IV from the secret (RFC 8446, section 7.3).
func (t *traffic) derive() error {
	key, err := t.expand("key", t.suite.keyLen)
	if err != nil {
		return err
	}
	defer clear(key)
	iv, err := t.expand("iv", nonceLen)
	if err != nil {
		return err
	}
	copy(t.iv[:], iv)
	t.aead, err = t.suite.aead(key)
	return err
}

// update changes to the next secret, and begins to count records anew (RFC 8446, section 7.2).
func (t *traffic) update() error {
	secret, err := t.expand("traffic upd", t.suite.secretLen)
	if err != nil {
		return err
	}
	clear(t.Secret)
	t.Half = Half{Secret: secret}
	return t.derive()
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
func (t *traffic) expand(label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(t.suite.hash, t.Secret, string(info), n)
}

// nonce returns the nonce of the next record (RFC 8446, section 5.3).
func (t *traffic) nonce() []byte {
	t.buffer = t.iv
	binary.BigEndian.PutUint64(t.buffer[4:], binary.BigEndian.Uint64(t.iv[4:])^t.Sequence)
	return t.buffer[:]
}

// discard zeroes the secret and makes the keys unusable.
func (t *traffic) discard() {
	clear(t.Secret)
	clear(t.iv[:])
	*t = traffic{suite: t.suite}
}

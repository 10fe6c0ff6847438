package tls13

import (
	"encoding/binary"
	"fmt"
	"io"
)

// CountSealed returns how many records of those that were sent are protected with the first
// key of a secret. These are the last ones, up to the end: session tickets, after the messages
// of the handshake. The key itself shows which is the first.
func CountSealed(suiteID uint16, secret Secret, sent []byte) (n uint64, err error) {
	s, ok := suites[suiteID]
	if !ok {
		return 0, fmt.Errorf("tls13: unknown cipher suite 0x%04x", suiteID)
	}
	t, err := newTraffic(s, Half{Secret: secret})
	if err != nil {
		return 0, fmt.Errorf("tls13: derive keys: %w", err)
	}
	defer t.discard()
	for len(sent) > 0 {
		if len(sent) < headerLen {
			return 0, io.ErrUnexpectedEOF
		}
		end := headerLen + int(binary.BigEndian.Uint16(sent[3:]))
		if len(sent) < end {
			return 0, io.ErrUnexpectedEOF
		}
		record := sent[:end]
		sent = sent[end:]
		if contentType(record[0]) != typeApplicationData {
			continue
		}
		_, err := t.aead.Open(nil, t.nonce(), record[headerLen:], record[:headerLen])
		switch {
		case err == nil:
			t.Sequence++
		case t.Sequence > 0:
			return 0, alertBadRecordMAC // after a record that is protected with the key
		}
	}
	return t.Sequence, nil
}

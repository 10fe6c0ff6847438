package tls13

import (
	"crypto/tls"
	"encoding/binary"
	"io"
)

// maxUseless is how many records without application data a peer may send in a row.
const maxUseless = 32

// inbound decides what becomes of the records that are received.
type inbound struct {
	traffic
	message [keyUpdateLen]byte // the part of a post-handshake message that has come
	have    int                // its length
	useless int                // records without application data in a row
}

// recordLen returns the length of the record that begins with a header. A peer that is not
// to be believed is not listened to any further.
func recordLen(header []byte) (int, error) {
	// The version is authenticated and otherwise ignored (RFC 8446, section 5.1).
	n := int(binary.BigEndian.Uint16(header[3:]))
	switch {
	case contentType(header[0]) != typeApplicationData:
		return 0, alertUnexpectedMessage
	case n > maxCiphertext:
		return 0, alertRecordOverflow
	}
	return headerLen + n, nil
}

// receive opens a record in place, and returns the application data of it, if any, and
// whether the peer has requested a KeyUpdate. The error is io.EOF after a close_notify,
// a remote error, or the [tls.AlertError] to send. No record may be received after it.
func (in *inbound) receive(record []byte) (data []byte, requested bool, err error) {
	plaintext, err := in.aead.Open(record[headerLen:headerLen], in.nonce(), record[headerLen:], record[:headerLen])
	if err != nil {
		return nil, false, alertBadRecordMAC
	}
	in.Sequence++
	if len(plaintext) > maxPlaintext+1 {
		return nil, false, alertRecordOverflow
	}
	end := len(plaintext) - 1
	for end >= 0 && plaintext[end] == 0 {
		end--
	}
	if end < 0 {
		return nil, false, alertUnexpectedMessage
	}
	content, kind := plaintext[:end], contentType(plaintext[end])
	if in.useless++; kind == typeApplicationData && len(content) > 0 {
		in.useless = 0
	}
	switch {
	case kind == typeAlert && len(content) > 0:
		err = in.receiveAlert(content)
	case kind == typeHandshake && len(content) > 0:
		requested, err = in.receiveHandshake(content)
	case kind == typeApplicationData && in.have == 0:
		data = content
	default: // of another type, empty (RFC 8446, section 5.4) or within a message (section 5.1)
		err = alertUnexpectedMessage
	}
	if err == nil && in.useless > maxUseless {
		err = alertUnexpectedMessage
	}
	return data, requested, err
}

// receiveAlert ignores the alert's level (RFC 8446, section 6).
func (in *inbound) receiveAlert(p []byte) error {
	if len(p) != 2 {
		return alertDecodeError
	}
	switch alert := tls.AlertError(p[1]); {
	case alert == alertCloseNotify:
		return io.EOF
	case alert != alertUserCanceled:
		return remoteError(alert)
	case in.have > 0:
		return alertUnexpectedMessage
	}
	return nil // a close_notify follows
}

// receiveHandshake receives a post-handshake message, or a part of it. A client sends none
// but KeyUpdates: it was asked for no certificate, and tickets are the server's to send.
func (in *inbound) receiveHandshake(p []byte) (requested bool, err error) {
	n := copy(in.message[in.have:], p)
	m := in.message[:in.have+n]
	switch {
	case m[0] != typeKeyUpdate:
		return false, alertUnexpectedMessage
	case len(m) >= 4 && (m[1] != 0 || m[2] != 0 || m[3] != 1):
		return false, alertDecodeError
	case len(m) < keyUpdateLen:
		in.have = len(m)
		return false, nil
	case m[4] > updateRequested:
		return false, alertIllegalParameter
	case n < len(p): // what precedes a change of keys ends a record (RFC 8446, section 5.1)
		return false, alertUnexpectedMessage
	}
	in.have = 0
	if in.update() != nil {
		return false, alertInternalError
	}
	return m[4] == updateRequested, nil
}

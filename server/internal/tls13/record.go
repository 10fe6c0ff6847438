package tls13

import (
	"crypto/tls"
	"net"
)

// contentType is the type of a record (RFC 8446, section 5.1).
type contentType uint8

const (
	typeAlert           contentType = 21
	typeHandshake       contentType = 22
	typeApplicationData contentType = 23
)

const (
	headerLen     = 5
	maxPlaintext  = 1 << 14
	maxCiphertext = maxPlaintext + 256
	overhead      = headerLen + 1 + tagLen // of a record without padding
)

// The alerts that are sent or treated specially (RFC 8446, section 6).
const (
	alertCloseNotify       tls.AlertError = 0
	alertUnexpectedMessage tls.AlertError = 10
	alertBadRecordMAC      tls.AlertError = 20
	alertRecordOverflow    tls.AlertError = 22
	alertIllegalParameter  tls.AlertError = 47
	alertDecodeError       tls.AlertError = 50
	alertInternalError     tls.AlertError = 80
	alertUserCanceled      tls.AlertError = 90
)

const (
	levelWarning = 1
	levelFatal   = 2
)

// A KeyUpdate (RFC 8446, section 4.6.3).
const (
	typeKeyUpdate      = 24
	keyUpdateLen       = 4 + 1 // with the header of handshake messages
	updateNotRequested = 0
	updateRequested    = 1
)

func localError(a tls.AlertError) error { return &net.OpError{Op: "local error", Err: a} }

func remoteError(a tls.AlertError) error { return &net.OpError{Op: "remote error", Err: a} }

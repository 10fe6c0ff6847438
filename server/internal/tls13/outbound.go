package tls13

import "encoding/binary"

// maxRecords is how many records a key protects: AES-GCM is safe for 2^24.5 of full length
// (RFC 8446, section 5.5).
const maxRecords = 1 << 24

// outbound makes the records that are sent.
type outbound struct{ traffic }

// seal appends a record.
func (o *outbound) seal(dst []byte, kind contentType, content []byte) []byte {
	begin := len(dst)
	dst = append(dst, byte(typeApplicationData), 3, 3)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(content)+1+tagLen))
	dst = append(dst, content...)
	dst = append(dst, byte(kind))
	header, plaintext := dst[begin:begin+headerLen], dst[begin+headerLen:]
	dst = o.aead.Seal(dst[:begin+headerLen], o.nonce(), plaintext, header)
	o.Sequence++
	return dst
}

// sealUpdate appends a KeyUpdate and changes keys.
func (o *outbound) sealUpdate(dst []byte) ([]byte, error) {
	dst = o.seal(dst, typeHandshake, []byte{typeKeyUpdate, 0, 0, 1, updateNotRequested})
	return dst, o.update()
}

// isWorn reports whether the key has to be changed before application data is sent.
func (o *outbound) isWorn() bool { return o.Sequence >= maxRecords }

// sealData appends application data, in as few records as possible.
func (o *outbound) sealData(dst, p []byte) []byte {
	for len(p) > 0 {
		n := min(len(p), maxPlaintext)
		dst = o.seal(dst, typeApplicationData, p[:n])
		p = p[n:]
	}
	return dst
}

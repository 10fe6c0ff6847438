package server

import (
	"encoding/base64"
	"encoding/json"
	"errors"

	"example.com/baton/server/internal/tls13"
	"example.com/baton/upgrade"
)

// transfer is what a successor needs to rebuild the layers of a connection, beside the socket.
// It is an [upgrade.ConnectionState] as JSON, with the secrets of TLS in a part of their own.
// One that has anything else is refused: a later release depends on that.
type transfer struct {
	TLS    *tlsState    `json:"tls,omitempty"`
	HTTP2  *http2State  `json:"http2,omitempty"`
	Tunnel *tunnelState `json:"tunnel,omitempty"`
}

// encode returns nil if the socket is all. It appends the secrets itself, since encoding/json
// keeps copies of what it encodes in buffers of its own, which nobody can clear.
func (t transfer) encode() (upgrade.ConnectionState, error) {
	if t == (transfer{}) {
		return nil, nil
	}
	var in, out tls13.Secret
	if t.TLS != nil {
		public := *t.TLS
		in, public.Records.In.Secret = public.Records.In.Secret, nil
		out, public.Records.Out.Secret = public.Records.Out.Secret, nil
		t.TLS = &public
	}
	text, err := json.Marshal(t)
	if err != nil || in == nil {
		return text, err
	}
	base64 := base64.StdEncoding
	begin, between, end := `,"secrets":["`, `","`, `"]}`
	whole := make([]byte, 0, len(text)+len(begin)+len(between)+len(end)+base64.EncodedLen(len(in))+base64.EncodedLen(len(out)))
	whole = append(whole, text[:len(text)-1]...) // never copied to grow
	whole = base64.AppendEncode(append(whole, begin...), in)
	whole = base64.AppendEncode(append(whole, between...), out)
	return append(whole, end...), nil
}

// clear zeroes the secrets.
func (t *transfer) clear() {
	if t.TLS != nil {
		t.TLS.Records.Clear()
	}
}

var errUnknownState = errors.New("the state of the connection has a part that is unknown")

// decodeTransfer returns what a predecessor has encoded.
func decodeTransfer(s upgrade.ConnectionState) (t transfer, err error) {
	if s == nil {
		return t, nil
	}
	var secrets [2]tls13.Secret
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(s, &parts); err != nil {
		return t, err
	}
	for name, part := range parts {
		defer clear(part)
		switch name {
		case "tls":
			err = errors.Join(err, json.Unmarshal(part, &t.TLS))
		case "secrets":
			err = errors.Join(err, json.Unmarshal(part, &secrets))
		case "http2":
			err = errors.Join(err, json.Unmarshal(part, &t.HTTP2))
		case "tunnel":
			err = errors.Join(err, json.Unmarshal(part, &t.Tunnel))
		default:
			err = errors.Join(err, errUnknownState)
		}
	}
	switch {
	case t.TLS != nil:
		t.TLS.Records.In.Secret, t.TLS.Records.Out.Secret = secrets[0], secrets[1]
	case secrets[0] != nil:
		clear(secrets[0])
		clear(secrets[1])
		err = errors.Join(err, errUnknownState)
	}
	return t, err
}

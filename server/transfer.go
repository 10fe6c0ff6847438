package server

import (
	"encoding/json"
	"errors"

	"example.com/baton/upgrade"
)

// transfer is what a successor needs to rebuild the layers of a connection, beside the socket.
// It is an [upgrade.ConnectionState] as JSON. One that has anything else is refused: a later release
// depends on that.
type transfer struct {
	TLS    *tlsState    `json:"tls,omitempty"`
	HTTP2  *http2State  `json:"http2,omitempty"`
	Tunnel *tunnelState `json:"tunnel,omitempty"`
}

// tlsState is the state of the TLS layer.
type tlsState struct{}

// tunnelState is the state of a connection that a handler has taken over.
type tunnelState struct{}

// encode returns nil if the socket is all.
func (t transfer) encode() (upgrade.ConnectionState, error) {
	if t == (transfer{}) {
		return nil, nil
	}
	return json.Marshal(t)
}

var errUnknownState = errors.New("the state of the connection has a part that is unknown")

// decodeTransfer returns what a predecessor has encoded.
func decodeTransfer(s upgrade.ConnectionState) (t transfer, err error) {
	if s == nil {
		return t, nil
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(s, &parts); err != nil {
		return t, err
	}
	for name, part := range parts {
		defer clear(part)
		switch name {
		case "tls":
			err = errors.Join(err, json.Unmarshal(part, &t.TLS))
		case "http2":
			err = errors.Join(err, json.Unmarshal(part, &t.HTTP2))
		case "tunnel":
			err = errors.Join(err, json.Unmarshal(part, &t.Tunnel))
		default:
			err = errors.Join(err, errUnknownState)
		}
	}
	return t, err
}

package streams

import (
	"encoding/binary"

	"example.com/baton/server/internal/frames"
)

// values are settings of a client, those that net/http looks at: RFC 9113, section 6.5.2. The
// index is the setting's identifier.
type values [frames.SettingMaxHeaderListSize + 1]*uint32

// follow notes the settings of a frame.
func (v *values) follow(payload []byte) {
	for id, value := range each(payload) {
		if int(id) < len(v) {
			v[id] = &value
		}
	}
}

// get returns a setting, or what holds if it is not set.
func (v *values) get(id int, otherwise uint32) uint32 {
	if v[id] == nil {
		return otherwise
	}
	return *v[id]
}

// append appends the settings to the payload of a SETTINGS frame, but for the size of the
// header table.
func (v *values) append(p []byte) []byte {
	for id, value := range v {
		if id != frames.SettingHeaderTableSize && value != nil {
			p = appendSetting(p, uint16(id), *value)
		}
	}
	return p
}

func appendSetting(p []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(p, id), value)
}

// each ranges over the settings of a frame.
func each(payload []byte) func(yield func(id uint16, value uint32) bool) {
	return func(yield func(uint16, uint32) bool) {
		for ; len(payload) >= frames.SettingLen; payload = payload[frames.SettingLen:] {
			if !yield(binary.BigEndian.Uint16(payload), binary.BigEndian.Uint32(payload[2:])) {
				return
			}
		}
	}
}

// withoutTable returns a SETTINGS frame of the server that leaves the client no header table.
func withoutTable(frame []byte) []byte {
	payload := appendSetting(nil, frames.SettingHeaderTableSize, 0)
	for id, value := range each(frame[frames.HeaderLen:]) {
		if id != frames.SettingHeaderTableSize {
			payload = appendSetting(payload, id, value)
		}
	}
	return frames.Append(nil, frames.Settings, 0, 0, payload)
}

package upgrade

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// Drained is the account of a drain.
type Drained struct {
	Seconds  float64 `json:"drain_seconds"`
	Requests int     `json:"requests_finished"`
	Migrated int     `json:"connections_moved"` // to the successor
	// MigratedBy is Migrated by protocol: the names are the service's. It is nil if the
	// release is one that did not distinguish them.
	MigratedBy  map[string]int `json:"connections_migrated,omitempty"`
	Connections Closed         `json:"connections"`
}

// Protocols is MigratedBy as a person reads it, by name: "300 http/1.1, 40 http/2+tls".
func (d Drained) Protocols() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(d.MigratedBy)) {
		parts = append(parts, fmt.Sprintf("%d %s", d.MigratedBy[name], name))
	}
	return strings.Join(parts, ", ")
}

// protocols is MigratedBy for the log.
func (d Drained) protocols() slog.Value {
	var attrs []slog.Attr
	for _, name := range slices.Sorted(maps.Keys(d.MigratedBy)) {
		attrs = append(attrs, slog.Int(name, d.MigratedBy[name]))
	}
	return slog.GroupValue(attrs...)
}

// Closed counts the connections that a drain ended, by the reason.
type Closed struct {
	Client          int `json:"client"`    // closed by the client, or at its request
	ConnectionClose int `json:"announced"` // sent "Connection: close" in a response
	IdleGrace       int `json:"grace"`     // idle for the idle grace
	DrainTimeout    int `json:"cut"`       // closed forcibly at the deadline
	Timeout         int `json:"timeout"`
	Error           int `json:"error"`
	Hijacked        int `json:"hijacked"` // closed by the handler that had taken it over
}

// String says how many were closed and why: "72 sent Connection: close, 5 idle".
func (c Closed) String() string {
	var parts []string
	for _, why := range []struct {
		n    int
		text string
	}{
		{c.Client, "by the client"}, {c.ConnectionClose, "sent Connection: close"}, {c.IdleGrace, "idle"}, {c.DrainTimeout, "forcibly"},
		{c.Timeout, "timed out"}, {c.Error, "failed"}, {c.Hijacked, "by the handler"},
	} {
		if why.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", why.n, why.text))
		}
	}
	return strings.Join(parts, ", ")
}

package upgrade

// This file holds what a generation needs of that which it runs.

import (
	"context"
	"net"
)

// Service is what a generation serves. Package server has one for HTTP.
type Service interface {
	// Check fails if the service could not do its work. It is called before
	// the generation is ready, and must not accept anything.
	Check(ctx context.Context) error
	// Serve begins to accept connections and returns at once.
	Serve()
	// Drain stops accepting, brings to a good end what is under way, and
	// returns when nothing is left. When ctx ends it cuts what remains. kept
	// tells of a listener whether a successor accepts from it.
	Drain(ctx context.Context, kept func(net.Listener) bool) Drained
	// Load returns what is under way.
	Load() Load
}

// Load is what a generation has in hand at one moment.
type Load struct {
	Requests    int         `json:"requests_in_flight"`
	Connections Connections `json:"connections"`
}

// Connections counts connections by state.
type Connections struct {
	New    int `json:"new"`
	Active int `json:"active"`
	Idle   int `json:"idle"`
}

// Drained is the account of a drain.
type Drained struct {
	Seconds     float64 `json:"drain_seconds"`
	Requests    int     `json:"requests_finished"`
	Connections Closed  `json:"connections"`
}

// Closed counts the connections that a drain ended, by the reason.
type Closed struct {
	Client    int `json:"client"`    // closed by the client, or at its wish
	Announced int `json:"announced"` // told to close in a response
	Grace     int `json:"grace"`     // silent for the idle grace
	Cut       int `json:"cut"`       // still busy at the deadline
	Timeout   int `json:"timeout"`
	Error     int `json:"error"`
	Hijacked  int `json:"hijacked"` // closed by the handler that had taken it over
}

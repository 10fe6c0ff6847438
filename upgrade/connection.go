package upgrade

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// Unopened is a connection of which there is no more than the socket: it can be
// awaited by its SyscallConn, have deadlines, migrate again and be closed. Most of those
// that migrate are idle until they do so again, and opening one takes more time than
// all the rest of the migration.
type Unopened interface {
	net.Conn
	// Open returns the *net.TCPConn or *net.UnixConn that takes its place, without
	// deadlines. An error leaves it as it is: Open may be called again, after
	// syscall.EMFILE for example.
	Open() (net.Conn, error)
}

// MigrationLimit is how many connections migrate with one message at most: the kernel passes
// no more descriptors.
const MigrationLimit = 253

// StateLimit is how many bytes the State of a connection may have. One that has more does not
// migrate.
const StateLimit = 64 << 10

// Connection is one that migrates from a generation to its successor.
type Connection struct {
	// For Migrate it is anything that has the SyscallConn of a socket. For Adopt it
	// is [Unopened].
	net.Conn
	// Listener is where it was accepted. For Adopt it is the successor's own
	// listener at the same address.
	Listener net.Listener
	// Used is whether it has carried a request.
	Used bool
	// Left is how long it may stay idle yet. 0 means without a limit.
	Left time.Duration
	// Peer is the other socket of a tunnel, which migrates with it, in the same way as Conn.
	// It is nil if there is none.
	Peer net.Conn
	// State is what the service needs beside the sockets: JSON of its own, of at most
	// [StateLimit] bytes. It is nil if they are all it needs.
	State ConnectionState
}

// ConnectionState is what a service needs of a connection that migrates, beside its sockets. It may hold keys, and is
// therefore shown neither by fmt, nor by slog, nor by encoding/json.
type ConnectionState []byte

const redacted = "[state]"

// String shows nothing of the state.
func (ConnectionState) String() string { return redacted }

// GoString shows nothing of the state.
func (ConnectionState) GoString() string { return redacted }

// Format shows nothing of the state, whatever the verb.
func (ConnectionState) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue shows nothing of the state.
func (ConnectionState) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText shows nothing of the state.
func (ConnectionState) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Clear overwrites the state with zeros.
func (s ConnectionState) Clear() { clear(s) }

package load

// Habit is how a client behaves on its connection.
type Habit int

const (
	BackToBack    Habit = iota // keep-alive, next request as soon as the answer is there
	Pausing                    // keep-alive, an exponential pause between requests
	PerRequest                 // a connection for each request, closed by the client
	PerRequestEnd              // the same with "Connection: close", so that the server must close
	Silent                     // connects, and says nothing
	SilentAfter                // makes one request, and then says nothing

	// The same over HTTP/2.
	Streams        // several requests at a time, the next one as soon as an answer is there
	StreamsPausing // one at a time, and a pause between
	StreamsSilent  // every other one makes two requests, and then says nothing

	// WebSockets, each message of which comes back.
	Sockets        // the next message as soon as the last one is back
	SocketsPausing // and a pause between
	SocketsSilent  // one message at the beginning, and one when the load ends
	Habits
)

// http2 reports whether a habit is that of a client of HTTP/2.
func (h Habit) http2() bool { return h >= Streams && h < Sockets }

// webSocket reports whether a habit is that of a client of a WebSocket.
func (h Habit) webSocket() bool { return h >= Sockets }

func (h Habit) String() string {
	return [...]string{"back-to-back", "pausing", "per request", "per request with close", "silent", "silent after one",
		"streams", "streams with pauses", "silent streams", "WebSocket", "WebSocket with pauses", "silent WebSocket"}[h]
}

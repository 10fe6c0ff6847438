package proxy

// flowSize is how much of a tunnel is between its two ends in one direction: it was read
// from one, and not written to the other. Twice that and a request's header must fit into
// what migrates with a connection.
const flowSize = 16 << 10

// flow is one direction of a tunnel, without the connections: what was read and not yet
// written, and where in the frames of a WebSocket that is. It decides what is written
// next. Its exported fields are what a successor needs to go on.
type flow struct {
	Held    []byte `json:"held,omitempty"`   // read, and not written
	Frames  frames `json:"frames,omitzero"`  // of what was written
	Written int64  `json:"written"`          // bytes
	Ended   bool   `json:"ended,omitempty"`  // nothing more will be read
	Closed  bool   `json:"closed,omitempty"` // that was passed on: nothing more will be written

	isWebSocket bool
	masked      bool   // it leads to the backend, to which a proxy is the client
	said        bool   // a close frame of our own: what comes now goes no further
	own         []byte // the rest of that frame
}

// When a flow ends with a close frame of our own.
type when int32

const (
	never when = iota
	afterMessage
	afterFrame
)

// next returns what is to be written next, nothing if more must be read before.
func (f *flow) next(leave when) []byte {
	if len(f.own) > 0 || f.Closed {
		return f.own
	}
	if !f.isWebSocket {
		return f.Held
	}
	if leave == afterMessage && f.Ended && len(f.Held) == 0 { // no more of the message will come
		leave = afterFrame
	}
	if f.mayLeave(leave) {
		f.said = true
		f.own = closeFrame(goingAway, f.masked)
		return f.own
	}
	if f.said {
		f.follow(f.Held)
		f.Held = nil
	}
	if leave == never {
		return f.Held
	}
	ahead := f.Frames
	return f.Held[:ahead.next(f.Held)]
}

// wrote says that n bytes of what next has returned are written.
func (f *flow) wrote(n int) {
	f.Written += int64(n)
	if len(f.own) > 0 {
		f.own = f.own[n:]
		return
	}
	f.follow(f.Held[:n])
	f.Held = f.Held[n:]
}

func (f *flow) follow(p []byte) {
	for f.isWebSocket && len(p) > 0 {
		p = p[f.Frames.next(p):]
	}
}

// mayLeave reports whether a close frame of our own belongs here.
func (f *flow) mayLeave(leave when) bool {
	if f.said || f.Frames.Closed {
		return false
	}
	return leave == afterMessage && f.Frames.atMessage() || leave == afterFrame && f.Frames.atFrame()
}

// isOver reports whether there is no more to wait for: a close frame has come from the peer, or
// its end.
func (f *flow) isOver() bool { return f.Ended || f.Frames.Closed }

// isValid reports whether a flow of a predecessor is understood.
func (f *flow) isValid() bool { return f.Frames.isValid() && f.Written >= 0 }

// resume goes on with a flow of a predecessor.
func (f *flow) resume(from flow) {
	f.Held, f.Frames, f.Written, f.Ended, f.Closed = from.Held, from.Frames, from.Written, from.Ended, from.Closed
}

// isAtRest reports whether all that is to be known of the flow is in its exported fields.
func (f *flow) isAtRest() bool { return !f.said && len(f.Held) <= flowSize }

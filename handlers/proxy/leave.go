package proxy

import (
	"context"
	"time"
)

// closeTimeout bounds the end of a WebSocket: until both directions are between
// two frames, and both peers have answered the close frame.
const closeTimeout = time.Second

// leave is the drain hook. It ends the connection: a WebSocket with a close frame to both
// sides, between two messages if there is such a moment soon, else between two frames. Then,
// and any other connection at once, it is closed.
func (t *tunnel) leave(ctx context.Context) {
	t.leaving.Store(true)
	defer t.close()
	if !t.isWebSocket {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, t.proxy.opts.closeTimeout)
	defer cancel()
	until, _ := ctx.Deadline()
	impatient := time.NewTimer(time.Until(until) / 2)
	defer impatient.Stop()

	t.say(afterMessage)
	for _, p := range t.pipes() {
		for waiting := true; waiting; {
			select {
			case <-p.over:
				waiting = false
			case <-impatient.C:
				t.say(afterFrame)
			case <-t.over:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// say lets both pipes write a close frame, now or when they come to where it belongs.
func (t *tunnel) say(w when) {
	for _, p := range t.pipes() {
		p.leave.Store(int32(w))
		p.wake()
	}
}

package http1

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"example.com/baton/e2e/internal/await"
)

// Ending is how a connection came to its end.
type Ending string

const (
	Fin      Ending = "FIN"
	Rst      Ending = "RST"
	StillOn  Ending = "still open"
	MoreData Ending = "unexpected data"
)

// AwaitClose waits for the server to close a connection on which nothing more is to come. It takes a byte of what
// comes all the same.
func (c *Conn) AwaitClose(within time.Duration) Ending {
	ending := c.Look(within)
	if ending == MoreData {
		c.R.Discard(1)
	}
	return ending
}

// Look waits for anything to come, and takes nothing of it.
func (c *Conn) Look(within time.Duration) Ending {
	ending := c.peek(within)
	if ending == StillOn && c.hasCome() { // the time was over before anybody looked
		ending = c.peek(await.Hang)
	}
	return ending
}

func (c *Conn) peek(within time.Duration) Ending {
	c.SetReadDeadline(time.Now().Add(within))
	if _, err := c.R.Peek(1); err != nil {
		return EndingOf(err)
	}
	return MoreData
}

// hasCome reports whether the kernel has something for the reader: bytes, or the end.
func (c *Conn) hasCome() (came bool) {
	nc := c.Conn
	if secure, ok := nc.(*tls.Conn); ok {
		nc = secure.NetConn()
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		came = err != syscall.EAGAIN && err != syscall.EINTR
	})
	return came
}

func EndingOf(err error) Ending {
	var timeout net.Error
	switch {
	case err == nil, errors.Is(err, io.EOF): // nil is what io.Copy makes of the end
		return Fin
	case errors.As(err, &timeout) && timeout.Timeout():
		return StillOn
	default:
		return Rst
	}
}

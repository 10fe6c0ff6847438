package http2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

// listen takes what comes, to the end.
func (c *Conn) listen() {
	defer close(c.Over)
	var err error
	for err == nil {
		var f http2.Frame
		if f, err = c.framer.ReadFrame(); err == nil {
			err = c.take(f)
		}
	}
	c.Close()
	c.Mu.Lock()
	defer c.Mu.Unlock()
	var broken net.Error
	c.Err, c.OverAt = err, time.Now()
	c.Wrong = !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, http1.ErrNotNotified) &&
		!errors.As(err, &broken) && !c.Left
	for _, s := range c.streams {
		switch {
		case c.Wrong:
			c.end(s, &loss{Kind: exchange.WrongStatus, Err: err})
		case c.answered > 0 || len(c.GoAways) > 0:
			c.end(s, s.cut(exchange.ClosedUnannounced, err))
		default:
			c.end(s, s.cut(exchange.NotAnswered, err))
		}
	}
	c.changed.Broadcast()
}

// take does what a frame asks for. The error is for what no server may send.
func (c *Conn) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.PingFrame:
		// A request that was begun before is sent before: the server must be able to rely on that.
		if !f.IsAck() {
			c.writing.Lock()
			defer c.writing.Unlock()
			c.framer.WritePing(true, f.Data)
		}
		return nil
	case *http2.SettingsFrame:
		if !f.IsAck() {
			c.settle(f)
			c.writing.Lock()
			defer c.writing.Unlock()
			if v, ok := f.Value(http2.SettingHeaderTableSize); ok {
				c.packer.SetMaxDynamicTableSizeLimit(v)
			}
			c.framer.WriteSettingsAck()
		}
		return nil
	case *http2.DataFrame:
		defer c.giveBack(f.StreamID, f.Length, f.StreamEnded())
	}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if g, ok := f.(*http2.GoAwayFrame); ok {
		return c.hear(g)
	}
	id := f.Header().StreamID
	s := c.streams[id]
	if w, ok := f.(*http2.WindowUpdateFrame); ok {
		if id == 0 {
			c.window += int(w.Increment)
		} else if s != nil {
			s.window += int(w.Increment)
		}
		c.changed.Broadcast()
		return nil
	}
	_, reset := f.(*http2.RSTStreamFrame)
	switch {
	case c.refused[id] && !reset:
		return fmt.Errorf("%v for a stream that was refused", f.Header())
	case id > uint32(2*c.Made), s == nil && id%2 == 0:
		return fmt.Errorf("%v for a stream that nobody has opened", f.Header())
	case s == nil:
		return nil // it was given up
	}
	return s.take(c, f)
}

// hear notes that the server goes away.
func (c *Conn) hear(g *http2.GoAwayFrame) error {
	if g.ErrCode != http2.ErrCodeNo {
		return fmt.Errorf("got a GOAWAY with %v %.100q", g.ErrCode, g.DebugData())
	}
	if g.LastStreamID > c.last {
		return fmt.Errorf("got a GOAWAY for stream %d after one for %d", g.LastStreamID, c.last)
	}
	c.last = g.LastStreamID
	c.GoAways = append(c.GoAways, c.last)
	for id, s := range c.streams {
		if id <= c.last || s.over {
			continue
		}
		if s.begun {
			return fmt.Errorf("got a GOAWAY for stream %d after the answer to stream %d", c.last, id)
		}
		c.end(s, &loss{Refused: true, Err: fmt.Errorf("GOAWAY for stream %d", c.last)})
	}
	if len(c.GoAways) == 1 {
		c.ToldAt, c.Warned = time.Now(), c.last == AnyStream || c.Left
		close(c.Told)
	}
	return nil
}

// settle notes the server's settings that matter.
func (c *Conn) settle(f *http2.SettingsFrame) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, s := range c.streams {
			s.window += int(v) - c.perEach
		}
		c.perEach = int(v)
		c.changed.Broadcast()
	}
}

// giveBack opens the windows by what has come.
func (c *Conn) giveBack(stream, n uint32, ended bool) {
	if n == 0 {
		return
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.framer.WriteWindowUpdate(0, n)
	if !ended {
		c.framer.WriteWindowUpdate(stream, n)
	}
}

package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/coder/websocket"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

// messageSizes are those of the messages that a client of a WebSocket sends, in turn. The long ones are rare, or nearly all
// of the machine's time would be theirs.
var messageSizes = slices.Concat(slices.Repeat([]int{1, 125, 126, 5_000, 65_535, 65_536}, 3), []int{300_000}, slices.Repeat([]int{1, 125, 126, 5_000}, 3), []int{1 << 20})

// talk is the life of a client of a WebSocket.
func (c *client) talk(ctx context.Context) {
	for again := true; again && ctx.Err() == nil; again = !c.load.Once {
		c.broken = false
		ws, err := c.dialSocket()
		if err != nil {
			c.counts.fail(exchange.NoConnection, c.habit, 0, err)
			c.rest(ctx, 10*time.Millisecond)
			continue
		}
		c.counts.Connections[c.habit].Add(1)
		c.say(ctx, ws)
		c.countLost()
	}
}

// dialSocket connects with /ws.
func (c *client) dialSocket() (*websocket.Conn, error) {
	within := max(c.load.Patience, 10*time.Second)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: within}).DialContext(ctx, c.load.Network, c.load.Address)
		},
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			return http1.Handshake(c.load.Network, c.load.Address, within, withProtocol(c.load.TLS, "http/1.1"))
		},
	}
	scheme := "ws"
	if c.load.TLS != nil {
		scheme = "wss"
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, scheme+"://"+http1.Host+"/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err == nil {
		ws.SetReadLimit(2 << 20)
	}
	return ws, err
}

func withProtocol(config *tls.Config, protocol string) *tls.Config {
	config = config.Clone()
	config.NextProtos = []string{protocol}
	return config
}

// say uses one WebSocket for as long as the habit and the server keep it.
func (c *client) say(ctx context.Context, ws *websocket.Conn) {
	defer ws.CloseNow()
	pause := rand.New(rand.NewPCG(uint64(c.habit), uint64(c.turn)))
	for nth := 1; ; nth++ {
		if !c.echo(ws, nth) {
			return
		}
		switch c.habit {
		case SocketsSilent:
			<-ctx.Done()
			c.echo(ws, nth+1)
		case SocketsPausing:
			c.rest(ctx, time.Duration(pause.ExpFloat64()*float64(c.load.Pause)))
		case Sockets:
			if c.load.Rest > 0 {
				c.rest(ctx, c.load.Rest)
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// echo sends one message, and checks that it comes back.
func (c *client) echo(ws *websocket.Conn, nth int) bool {
	message := exchange.Pattern(messageSizes[c.turn%len(messageSizes)])
	c.turn++
	ctx, cancel := context.WithTimeout(context.Background(), c.load.Patience)
	defer cancel()
	err := ws.Write(ctx, websocket.MessageBinary, message)
	if err != nil {
		// If the server has said why it closes, that is what counts.
		if told := c.hear(ctx, ws); websocket.CloseStatus(told) >= 0 {
			err = told
		}
		return c.endSocket(nth, err)
	}
	if err := c.hear(ctx, ws); err != nil {
		return c.endSocket(nth, err)
	}
	if heard := c.heard.Bytes(); !bytes.Equal(heard, message) {
		c.counts.fail(exchange.WrongBody, c.habit, nth, fmt.Errorf("got %d bytes %.40q, want %d bytes", len(heard), heard, len(message)))
		c.broken = true
		return false
	}
	c.counts.Answered[c.habit].Add(1)
	return true
}

// hear reads one message.
func (c *client) hear(ctx context.Context, ws *websocket.Conn) error {
	_, r, err := ws.Reader(ctx)
	if err == nil {
		c.heard.Reset()
		_, err = c.heard.ReadFrom(r)
	}
	return err
}

// endSocket notes the end of a WebSocket under a message, which 1001 announces.
func (c *client) endSocket(nth int, err error) bool {
	if websocket.CloseStatus(err) == websocket.StatusGoingAway {
		c.counts.Reconnects[c.habit].Add(1)
		return false
	}
	c.counts.fail(exchange.ClosedUnannounced, c.habit, nth, err)
	c.broken = true
	return false
}

package server_test

import (
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"golang.org/x/net/http2"
)

// A client that makes the server do work for nothing is refused, whatever frames it
// has found for that.
func TestHTTP2ExcessIsRefused(t *testing.T) {
	tier.Slow(t, "sends floods of every kind")
	t.Parallel()
	const batch = 500 // streams or frames a write
	headers := func(c *http2Client, stream int, flags http2.Flags, more ...string) []byte {
		c.fields.Reset()
		c.encode("POST", "/", more...)
		return rawFrame(c.fields.Len(), http2.FrameHeaders, flags|http2.FlagHeadersEndHeaders, uint32(stream), c.fields.Bytes())
	}
	zero, four := make([]byte, 4), []byte{0, 0, 0, 1}
	// each opens a stream with fields, and does something to it
	streams := func(flags http2.Flags, fields []string, then func(stream uint32) []byte) func(c *http2Client) func(int) []byte {
		return func(c *http2Client) func(int) []byte {
			return func(i int) (p []byte) {
				for n := range batch {
					stream := 2*(i*batch+n) + 1
					p = append(p, headers(c, stream, flags, fields...)...)
					p = append(p, then(uint32(stream))...)
				}
				return p
			}
		}
	}
	// the same frame for ever, after a request that stays open
	same := func(frame []byte) func(c *http2Client) func(int) []byte {
		return func(c *http2Client) func(int) []byte {
			return func(i int) (p []byte) {
				if i == 0 {
					p = headers(c, 1, 0)
				}
				for range batch {
					p = append(p, frame...)
				}
				return p
			}
		}
	}
	settings := func(id http2.SettingID, value ...byte) []byte { return append([]byte{0, byte(id)}, value...) }
	tests := map[string]func(c *http2Client) func(i int) []byte{
		"resets": streams(http2.FlagHeadersEndStream, nil, func(stream uint32) []byte {
			return rawFrame(4, http2.FrameRSTStream, 0, stream, []byte{0, 0, 0, 8})
		}),
		"resets of uploads": streams(0, nil, func(stream uint32) []byte {
			return rawFrame(4, http2.FrameRSTStream, 0, stream, zero)
		}),
		"window updates of 0": streams(0, nil, func(stream uint32) []byte {
			return rawFrame(4, http2.FrameWindowUpdate, 0, stream, zero)
		}),
		"windows too large": streams(0, nil, func(stream uint32) []byte {
			return rawFrame(4, http2.FrameWindowUpdate, 0, stream, []byte{0x7f, 0xff, 0xff, 0xff})
		}),
		"streams that depend on themselves": streams(0, nil, func(stream uint32) []byte {
			return rawFrame(5, http2.FramePriority, 0, stream, []byte{0, 0, byte(stream >> 8), byte(stream), 1})
		}),
		"more than the length": streams(0, []string{"content-length", "1"}, func(stream uint32) []byte {
			return rawFrame(2, http2.FrameData, 0, stream, []byte("xx"))
		}),
		"data after the answer": func(c *http2Client) func(i int) []byte {
			return func(i int) (p []byte) {
				if i == 0 {
					c.fields.Reset()
					c.encode("POST", "/early")
					p = rawFrame(c.fields.Len(), http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, c.fields.Bytes())
				}
				for range batch {
					p = append(p, rawFrame(10, http2.FrameData, 0, 1, make([]byte, 10))...)
				}
				return p
			}
		},
		"malformed headers": streams(0, []string{"Upper", "Case"}, func(uint32) []byte { return nil }),
		"resets of one":     same(rawFrame(4, http2.FrameRSTStream, 0, 1, zero)),
		"PINGs":             same(rawFrame(8, http2.FramePing, 0, 0, make([]byte, 8))),
		"answers to PINGs":  same(rawFrame(8, http2.FramePing, http2.FlagPingAck, 0, make([]byte, 8))),
		"empty SETTINGS":    same(rawFrame(0, http2.FrameSettings, 0, 0, nil)),
		"SETTINGS":          same(rawFrame(6, http2.FrameSettings, 0, 0, settings(http2.SettingInitialWindowSize, 0, 1, 0, 0))),
		"unknown SETTINGS":  same(rawFrame(6, http2.FrameSettings, 0, 0, settings(0x77, 0, 1, 0, 0))),
		"PRIORITYs":         same(rawFrame(5, http2.FramePriority, 0, 1, append(zero, 1))),
		"empty DATA":        same(rawFrame(0, http2.FrameData, 0, 1, nil)),
		"padding":           same(rawFrame(256, http2.FrameData, http2.FlagDataPadded, 1, append([]byte{255}, make([]byte, 255)...))),
		"WINDOW_UPDATEs":    same(rawFrame(4, http2.FrameWindowUpdate, 0, 1, four)),
		"unknown frames":    same(rawFrame(5, 0x77, 0xff, 9, []byte("hello"))),
		"empty CONTINUATIONs": func(c *http2Client) func(i int) []byte {
			return func(i int) (p []byte) {
				if i == 0 {
					p = rawFrame(0, http2.FrameHeaders, 0, 1, nil)
				}
				for range batch {
					p = append(p, rawFrame(0, http2.FrameContinuation, 0, 1, nil)...)
				}
				return p
			}
		},
	}
	var handled atomic.Int64
	opts := server.Options{ReadHeaderTimeout: patience, Logger: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handled.Add(1)
		if r.URL.Path != "/early" {
			<-r.Context().Done()
		}
	})}
	both(t, opts, func(t *testing.T, s *served, dial func() *http2Client) {
		for name, flood := range tests {
			handled.Store(0)
			before := s.Closed()[server.Failed]
			c := dial()
			c.await("the server's settings", func() bool { return len(c.settings) > 0 })
			sent, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(sent)
				next, ping := flood(c), rawFrame(8, http2.FramePing, 0, 0, make([]byte, 8))
				keepSending(c, 0, func(i int) []byte {
					if name == "empty CONTINUATIONs" { // nothing can be between them
						return next(i)
					}
					// Who does not read what is answered is disconnected by net/http at some time.
					each := 1
					if name == "PINGs" {
						each += batch
					}
					for acks := 0; acks < i*each; time.Sleep(100 * time.Microsecond) {
						select {
						case <-ended:
							return nil
						default:
						}
						c.mu.Lock()
						acks = c.acks
						c.mu.Unlock()
					}
					return append(next(i), ping...)
				})
			}()
			err := c.until("the end", func() bool { return false })
			if c.failed != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("%s: got a GOAWAY with %v, %v, want ENHANCE_YOUR_CALM", name, c.failed, err)
			}
			close(ended)
			c.Close()
			await(t, "the connection's end", func() bool { return s.Closed()[server.Failed] == before+1 })
			<-sent
			if n := handled.Load(); n > 1500 {
				t.Errorf("%s: %d requests were handled", name, n)
			}
		}
		<-s.drain(patience, all)
	})
}

// Who cancels as a browser does is not refused, nor who needs many frames for what it
// gets.
func TestHTTP2NoExcess(t *testing.T) {
	tier.Slow(t, "sends much of every kind")
	t.Parallel()
	const streams = 200 // a page's
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-r.Context().Done()
		case "/early":
			io.WriteString(w, "no")
		case "/drops": // a flush is a frame
			for range 20_000 {
				io.WriteString(w, "drops")
				http.NewResponseController(w).Flush()
			}
		default:
			io.Copy(w, r.Body)
		}
	})
	tests := map[string]func(c *http2Client){
		"a user who leaves pages": func(c *http2Client) {
			for page := range uint32(4) {
				for i := range uint32(streams) {
					c.request(2*(streams*page+i)+1, "/slow")
				}
				for i := range uint32(streams) {
					c.reset(2*(streams*page+i) + 1)
				}
			}
			c.request(8*streams+1, "/")
			c.gets(8*streams+1, "")
		},
		"every other request is cancelled": func(c *http2Client) {
			for i := range uint32(1500) {
				c.request(4*i+1, "/slow")
				c.reset(4*i + 1)
				c.request(4*i+3, "/")
				c.gets(4*i+3, "")
			}
		},
		"small frames, two WINDOW_UPDATEs for each": func(c *http2Client) {
			c.request(1, "/drops")
			if _, err := c.body(1); err != nil {
				t.Error(err)
			}
		},
		"small frames of a body": func(c *http2Client) {
			c.open(1, "POST", "/", false)
			go func() {
				for range 20_000 {
					c.mu.Lock()
					c.WriteData(1, false, []byte("drops"))
					c.mu.Unlock()
				}
				c.mu.Lock()
				c.WriteData(1, true, nil)
				c.mu.Unlock()
			}()
			if body, err := c.body(1); err != nil || len(body) != 100_000 {
				t.Errorf("got %d bytes, %v", len(body), err)
			}
		},
		"uploads that are answered before they are sent": func(c *http2Client) {
			for i := range uint32(50) {
				c.open(2*i+1, "POST", "/early", false)
				c.gets(2*i+1, "no")
				c.mu.Lock()
				for range 64 { // a window
					c.WriteData(2*i+1, false, make([]byte, 1<<10))
				}
				c.mu.Unlock()
			}
			c.request(101, "/")
			c.gets(101, "")
		},
	}
	bothOverTCP(t, server.Options{Handler: handler}, func(t *testing.T, s *served, dial func() *http2Client) {
		for name, use := range tests {
			t.Run(name, func(t *testing.T) {
				c := dial()
				c.t = t
				use(c)
				c.Close()
			})
		}
		<-s.drain(patience, all)
	})
}

// reset cancels a request.
func (c *http2Client) reset(stream uint32) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
		c.t.Error(err)
	}
}

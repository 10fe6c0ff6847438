package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// newTransport returns the one transport that all rules share.
func newTransport(headerTimeout time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &http.Transport{
		Proxy: nil, // a backend is spoken to directly, whatever HTTP_PROXY says
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &backendConn{conn.(*net.TCPConn), headerTimeout}, nil
		},
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  headerTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 1 << 20, // of each interim response as well
		MaxIdleConnsPerHost:    256,
		// Below what usual backends allow (Node.js: 5 s), so that it is not
		// they who close a connection just when the next request goes out.
		IdleConnTimeout:    4 * time.Second,
		DisableCompression: true, // the client's Accept-Encoding is passed on
	}
}

// backendConn bounds for how long a backend may take nothing of a write. ResponseHeaderTimeout only begins when the
// request is sent, which it never is to a backend that has stopped reading.
type backendConn struct {
	*net.TCPConn
	timeout time.Duration
}

func (c *backendConn) Write(p []byte) (int, error) {
	for written := 0; ; {
		if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return written, err
		}
		n, err := c.TCPConn.Write(p[written:])
		written += n
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) { // else the backend reads, if slowly
			return written, err
		}
	}
}

// ReadFrom copies through Write: that of TCPConn knows one deadline for the whole.
func (c *backendConn) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, src)
}

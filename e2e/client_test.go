// A connection that never retries: HTTP/1.1 written and parsed by hand, so that every loss shows.
//
// Go's http.Client sends an idempotent request again when its keep-alive connection turns out to be
// closed, and so hides the very thing that these tests look for.
package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// response is one parsed HTTP/1.1 response. It is reused from one exchange to the next,
// so what must outlive the exchange has to be copied.
type response struct {
	Status int
	// Close says that the server announced the end of the connection.
	Close bool
	Body  []byte
	// Interim counts the 1xx responses that came before.
	Interim int

	head    []byte // header lines, CRLF between
	trailer []byte // trailer lines of a chunked body
}

// Header returns the first value of a header field, empty if there is none.
func (r *response) Header(name string) string { return fieldOf(r.head, name) }

// Trailer returns the first value of a trailer field, empty if there is none.
func (r *response) Trailer(name string) string { return fieldOf(r.trailer, name) }

func fieldOf(lines []byte, name string) string {
	for line := range bytes.SplitSeq(lines, []byte("\r\n")) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(string(key), name) {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// A readError says how far a response had come when it broke off.
type readError struct {
	part part
	err  error
}

type part int

const (
	beforeHeader part = iota // not one byte of the response had arrived
	inHeader
	inBody
	malformed // it arrived, but is no HTTP/1.1 response
)

func (p part) String() string {
	return [...]string{"before the response header", "within the response header", "within the body", "malformed response"}[p]
}

func (e *readError) Error() string { return fmt.Sprintf("%v: %v", e.part, e.err) }
func (e *readError) Unwrap() error { return e.err }

// conn is a client's connection. Nothing in it dials again or sends a request twice.
type conn struct {
	net.Conn
	r      *bufio.Reader
	served int // responses received
}

func dial(network, address string, within time.Duration) (*conn, error) {
	c, err := net.DialTimeout(network, address, within)
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

func newConn(c net.Conn) *conn { return &conn{Conn: c, r: bufio.NewReaderSize(c, 4096)} }

// dialTLS does the same over TLS.
func dialTLS(network, address string, within time.Duration, config *tls.Config) (*conn, error) {
	c, err := shake(network, address, within, config)
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

// errNotNotified is the end of a connection over TLS that its close_notify did not precede, as if somebody in between
// had cut it.
var errNotNotified = errors.New("end without close_notify")

// strict tells such an end from an orderly one, which crypto/tls does not.
type strict struct{ net.Conn }

func (s strict) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF {
		err = errNotNotified
	}
	return n, err
}

// shake connects and makes the handshake.
func shake(network, address string, within time.Duration, config *tls.Config) (*tls.Conn, error) {
	deadline := time.Now().Add(within)
	plain, err := net.DialTimeout(network, address, within)
	if err != nil {
		return nil, err
	}
	c := tls.Client(strict{plain}, config)
	c.SetDeadline(deadline)
	if err := c.Handshake(); err != nil {
		plain.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return c, nil
}

// mustDial connects within the time a healthy server needs, and closes the connection when the test ends.
func mustDial(t testing.TB, network, address string) *conn {
	t.Helper()
	c, err := dial(network, address, 5*time.Second)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// receive reads one response to a request of the given method, skipping interim ones.
func (c *conn) receive(method string, resp *response) error {
	resp.Interim = 0
	for {
		if err := c.readHead(resp); err != nil {
			return err
		}
		if resp.Status >= 200 || resp.Status == 101 {
			break
		}
		resp.Interim++
	}
	if err := c.readBody(method, resp); err != nil {
		return err
	}
	c.served++
	return nil
}

func (c *conn) readHead(resp *response) error {
	resp.head, resp.trailer, resp.Body = resp.head[:0], resp.trailer[:0], resp.Body[:0]
	resp.Status, resp.Close = 0, false

	if _, err := c.r.Peek(1); err != nil {
		return &readError{beforeHeader, err}
	}
	line, err := c.line()
	if err != nil {
		return &readError{inHeader, err}
	}
	// "HTTP/1.1 200 OK"
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' {
		return &readError{malformed, fmt.Errorf("status line %q", line)}
	}
	if resp.Status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return &readError{malformed, fmt.Errorf("status line %q", line)}
	}
	resp.Close = line[7] == '0'
	resp.head, err = c.fields(resp.head)
	if err != nil {
		return &readError{inHeader, err}
	}
	if value := resp.Header("Connection"); value != "" {
		resp.Close = strings.EqualFold(value, "close")
	}
	return nil
}

func (c *conn) readBody(method string, resp *response) error {
	if method == "HEAD" || resp.Status == 204 || resp.Status == 304 || resp.Status == 101 {
		return nil
	}
	if strings.EqualFold(resp.Header("Transfer-Encoding"), "chunked") {
		return c.readChunks(resp)
	}
	if value := resp.Header("Content-Length"); value != "" {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return &readError{malformed, fmt.Errorf("content length %q", value)}
		}
		return c.append(resp, n)
	}
	// Without a length the body ends with the connection, and a truncation would go unseen.
	if !resp.Close {
		return &readError{malformed, errors.New("neither length nor chunks nor close")}
	}
	body, err := io.ReadAll(c.r)
	resp.Body = append(resp.Body, body...)
	if err != nil {
		return &readError{inBody, err}
	}
	return nil
}

func (c *conn) readChunks(resp *response) error {
	for {
		line, err := c.line()
		if err != nil {
			return &readError{inBody, err}
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return &readError{malformed, fmt.Errorf("chunk size %q", line)}
		}
		if n == 0 {
			if resp.trailer, err = c.fields(resp.trailer); err != nil {
				return &readError{inBody, err}
			}
			return nil
		}
		if err := c.append(resp, int(n)); err != nil {
			return err
		}
		if line, err := c.line(); err != nil {
			return &readError{inBody, err}
		} else if len(line) != 0 {
			return &readError{malformed, fmt.Errorf("%q where a chunk should end", line)}
		}
	}
}

// append reads n bytes into the body.
func (c *conn) append(resp *response, n int) error {
	have := len(resp.Body)
	resp.Body = append(resp.Body, make([]byte, n)...)
	got, err := io.ReadFull(c.r, resp.Body[have:])
	if err != nil {
		resp.Body = resp.Body[:have+got]
		return &readError{inBody, fmt.Errorf("after %d of %d bytes: %w", got, n, err)}
	}
	return nil
}

// line reads up to the next CRLF, valid until the next read.
func (c *conn) line() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// fields appends header or trailer lines to dst, up to the empty line.
func (c *conn) fields(dst []byte) ([]byte, error) {
	for {
		line, err := c.line()
		if err != nil {
			return dst, err
		}
		if len(line) == 0 {
			return dst, nil
		}
		dst = append(append(dst, line...), "\r\n"...)
	}
}

// send writes raw bytes as they are.
func (c *conn) send(t testing.TB, raw string) {
	t.Helper()
	c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatalf("write %.40q: %v", raw, err)
	}
}

// expect reads one response in full within 10 s.
func (c *conn) expect(t testing.TB, method string, status int) *response {
	t.Helper()
	return c.expectWithin(t, method, status, 10*time.Second)
}

func (c *conn) expectWithin(t testing.TB, method string, status int, within time.Duration) *response {
	t.Helper()
	resp := new(response)
	c.SetReadDeadline(time.Now().Add(within))
	if err := c.receive(method, resp); err != nil {
		t.Fatalf("response: %v", err)
	}
	if resp.Status != status {
		t.Fatalf("status: got %d, want %d, body %.200q", resp.Status, status, resp.Body)
	}
	return resp
}

// ending is how a connection came to its end.
type ending string

const (
	fin      ending = "FIN"
	rst      ending = "RST"
	stillOn  ending = "still open"
	moreData ending = "unexpected data"
)

// awaitClose waits for the server to close a connection on which nothing more is to come.
func (c *conn) awaitClose(within time.Duration) ending {
	c.SetReadDeadline(time.Now().Add(within))
	n, err := c.r.Read(make([]byte, 1))
	if n > 0 {
		return moreData
	}
	return endingOf(err)
}

func endingOf(err error) ending {
	var timeout net.Error
	switch {
	case err == nil, errors.Is(err, io.EOF): // nil is what io.Copy makes of the end
		return fin
	case errors.As(err, &timeout) && timeout.Timeout():
		return stillOn
	default:
		return rst
	}
}

// fetch makes one request on a connection of its own.
func fetch(network, address, method, path string, fields ...string) (*response, error) {
	c, err := dial(network, address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(request(method, path, nil, append(fields, "Connection: close")...)); err != nil {
		return nil, err
	}
	resp := new(response)
	if err := c.receive(method, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// request writes out one request. A body is announced by its length.
func request(method, path string, body []byte, fields ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, ourName)
	for _, field := range fields {
		b.WriteString(field + "\r\n")
	}
	if method == "POST" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

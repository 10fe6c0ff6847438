// Package http1 is a connection of HTTP/1.1 that never retries, written and parsed by hand, so that every loss shows.
//
// Go's http.Client sends an idempotent request again when its keep-alive connection turns out to be
// closed, and so hides the very thing that the tests look for.
package http1

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

	"example.com/baton/e2e/internal/await"
)

// Response is one parsed HTTP/1.1 response. It is reused from one exchange to the next,
// so what must outlive the exchange has to be copied.
type Response struct {
	Status int
	// Close says that the server announced the end of the connection.
	Close bool
	Body  []byte
	// Interim counts the 1xx responses that came before.
	Interim int

	Head         []byte // header lines, CRLF between
	TrailerLines []byte // trailer lines of a chunked body
}

// Header returns the first value of a header field, empty if there is none.
func (r *Response) Header(name string) string { return fieldOf(r.Head, name) }

// Trailer returns the first value of a trailer field, empty if there is none.
func (r *Response) Trailer(name string) string { return fieldOf(r.TrailerLines, name) }

func fieldOf(lines []byte, name string) string {
	for line := range bytes.SplitSeq(lines, []byte("\r\n")) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(string(key), name) {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// A ReadError says how far a response had come when it broke off.
type ReadError struct {
	Part part
	err  error
}

type part int

const (
	BeforeHeader part = iota // not one byte of the response had arrived
	inHeader
	InBody
	Malformed // it arrived, but is no HTTP/1.1 response
)

func (p part) String() string {
	return [...]string{"before the response header", "within the response header", "within the body", "malformed response"}[p]
}

func (e *ReadError) Error() string { return fmt.Sprintf("%v: %v", e.Part, e.err) }

func (e *ReadError) Unwrap() error { return e.err }

// Conn is a client's connection. Nothing in it dials again or sends a request twice.
type Conn struct {
	net.Conn
	R      *bufio.Reader
	Served int // responses received
}

func Dial(network, address string, within time.Duration) (*Conn, error) {
	c, err := net.DialTimeout(network, address, within)
	if err != nil {
		return nil, err
	}
	return NewConn(c), nil
}

func NewConn(c net.Conn) *Conn { return &Conn{Conn: c, R: bufio.NewReaderSize(c, 4096)} }

// DialTLS does the same over TLS.
func DialTLS(network, address string, within time.Duration, config *tls.Config) (*Conn, error) {
	c, err := Handshake(network, address, within, config)
	if err != nil {
		return nil, err
	}
	return NewConn(c), nil
}

// ErrNotNotified is the end of a connection over TLS that its close_notify did not precede, as if somebody in between
// had cut it.
var ErrNotNotified = errors.New("end without close_notify")

// strict distinguishes such an end from an orderly one, which crypto/tls does not.
type strict struct{ net.Conn }

func (s strict) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = ErrNotNotified
	}
	return n, err
}

// Handshake connects and makes the handshake.
func Handshake(network, address string, within time.Duration, config *tls.Config) (*tls.Conn, error) {
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

// MustDial connects within the time a healthy server needs, and closes the connection when the test ends.
func MustDial(t testing.TB, network, address string) *Conn {
	t.Helper()
	c, err := Dial(network, address, await.Hang)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Receive reads one response to a request of the given method, skipping interim ones.
func (c *Conn) Receive(method string, resp *Response) error {
	resp.Interim = 0
	for {
		if err := c.ReadHead(resp); err != nil {
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
	c.Served++
	return nil
}

func (c *Conn) ReadHead(resp *Response) error {
	resp.Head, resp.TrailerLines, resp.Body = resp.Head[:0], resp.TrailerLines[:0], resp.Body[:0]
	resp.Status, resp.Close = 0, false

	if _, err := c.R.Peek(1); err != nil {
		return &ReadError{BeforeHeader, err}
	}
	line, err := c.line()
	if err != nil {
		return &ReadError{inHeader, err}
	}
	// "HTTP/1.1 200 OK"
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' {
		return &ReadError{Malformed, fmt.Errorf("status line %q", line)}
	}
	if resp.Status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return &ReadError{Malformed, fmt.Errorf("status line %q", line)}
	}
	resp.Close = line[7] == '0'
	resp.Head, err = c.fields(resp.Head)
	if err != nil {
		return &ReadError{inHeader, err}
	}
	if value := resp.Header("Connection"); value != "" {
		resp.Close = strings.EqualFold(value, "close")
	}
	return nil
}

func (c *Conn) readBody(method string, resp *Response) error {
	if method == "HEAD" || resp.Status == 204 || resp.Status == 304 || resp.Status == 101 {
		return nil
	}
	if strings.EqualFold(resp.Header("Transfer-Encoding"), "chunked") {
		return c.ReadChunks(resp)
	}
	if value := resp.Header("Content-Length"); value != "" {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return &ReadError{Malformed, fmt.Errorf("content length %q", value)}
		}
		return c.append(resp, n)
	}
	// Without a length the body ends with the connection, and a truncation would go unseen.
	if !resp.Close {
		return &ReadError{Malformed, errors.New("neither length nor chunks nor close")}
	}
	body, err := io.ReadAll(c.R)
	resp.Body = append(resp.Body, body...)
	if err != nil {
		return &ReadError{InBody, err}
	}
	return nil
}

func (c *Conn) ReadChunks(resp *Response) error {
	for {
		line, err := c.line()
		if err != nil {
			return &ReadError{InBody, err}
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return &ReadError{Malformed, fmt.Errorf("chunk size %q", line)}
		}
		if n == 0 {
			if resp.TrailerLines, err = c.fields(resp.TrailerLines); err != nil {
				return &ReadError{InBody, err}
			}
			return nil
		}
		if err := c.append(resp, int(n)); err != nil {
			return err
		}
		if line, err := c.line(); err != nil {
			return &ReadError{InBody, err}
		} else if len(line) != 0 {
			return &ReadError{Malformed, fmt.Errorf("%q where a chunk should end", line)}
		}
	}
}

// append reads n bytes into the body.
func (c *Conn) append(resp *Response, n int) error {
	have := len(resp.Body)
	resp.Body = append(resp.Body, make([]byte, n)...)
	got, err := io.ReadFull(c.R, resp.Body[have:])
	if err != nil {
		resp.Body = resp.Body[:have+got]
		return &ReadError{InBody, fmt.Errorf("after %d of %d bytes: %w", got, n, err)}
	}
	return nil
}

// line reads up to the next CRLF, valid until the next read.
func (c *Conn) line() ([]byte, error) {
	line, err := c.R.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// fields appends header or trailer lines to dst, up to the empty line.
func (c *Conn) fields(dst []byte) ([]byte, error) {
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

// Send writes raw bytes as they are.
func (c *Conn) Send(t testing.TB, raw string) {
	t.Helper()
	c.SetWriteDeadline(time.Now().Add(await.Hang))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatalf("write %.40q: %v", raw, err)
	}
}

// Expect reads one response in full.
func (c *Conn) Expect(t testing.TB, method string, status int) *Response {
	t.Helper()
	resp := new(Response)
	c.SetReadDeadline(time.Now().Add(await.Hang))
	if err := c.Receive(method, resp); err != nil {
		t.Fatalf("response: %v", err)
	}
	if resp.Status != status {
		t.Fatalf("status: got %d, want %d, body %.200q", resp.Status, status, resp.Body)
	}
	return resp
}

// Fetch makes one request on a connection of its own.
func Fetch(network, address, method, path string, fields ...string) (*Response, error) {
	c, err := Dial(network, address, await.Hang)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(await.Hang))
	if _, err := c.Write(Request(method, path, nil, append(fields, "Connection: close")...)); err != nil {
		return nil, err
	}
	resp := new(Response)
	if err := c.Receive(method, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Request writes out one request. A body is announced by its length.
func Request(method, path string, body []byte, fields ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, Host)
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

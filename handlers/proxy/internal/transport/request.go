package transport

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// appendHeader appends the header of the request as it is sent. No field is added but those that
// frame the message, not even a User-Agent.
func appendHeader(b []byte, r *http.Request) ([]byte, error) {
	method, target := r.Method, r.URL.RequestURI()
	if method == "" {
		method = http.MethodGet
	}
	if !httpguts.ValidHeaderFieldName(method) { // a token as well
		return b, fmt.Errorf("method %q is invalid", method)
	}
	if strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return b, errors.New("request target has control characters or spaces")
	}
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	host, err := httpguts.PunycodeHostPort(host)
	if err != nil || !httpguts.ValidHostHeader(host) {
		return b, fmt.Errorf("host %q is invalid", host)
	}
	b = append(append(append(append(b, method...), ' '), target...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, host...), "\r\n"...)
	for name, values := range r.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		case "User-Agent":
			if len(values) > 0 && values[0] == "" { // what httputil sets lest one be added
				continue
			}
		}
		if b, err = appendField(b, name, values); err != nil {
			return b, err
		}
	}
	if r.Close && !httpguts.HeaderValuesContainsToken(r.Header["Connection"], "close") {
		b = append(b, "Connection: close\r\n"...)
	}
	if b, err = appendFraming(b, r); err != nil {
		return b, err
	}
	return append(b, "\r\n"...), nil
}

func appendField(b []byte, name string, values []string) ([]byte, error) {
	if !httpguts.ValidHeaderFieldName(name) {
		return b, fmt.Errorf("field name %q is invalid", name)
	}
	for _, value := range values {
		if !httpguts.ValidHeaderFieldValue(value) {
			return b, fmt.Errorf("value of field %q is invalid", name)
		}
		b = append(append(append(append(b, name...), ": "...), textproto.TrimString(value)...), "\r\n"...)
	}
	return b, nil
}

// appendFraming appends the fields that say where the body ends.
func appendFraming(b []byte, r *http.Request) ([]byte, error) {
	if r.ContentLength > 0 && (r.Body == nil || r.Body == http.NoBody) {
		return b, errors.New("request has a length, but no body")
	}
	switch n := bodyLength(r); {
	case n > 0, n == 0 && (r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH"):
		b = strconv.AppendInt(append(b, "Content-Length: "...), n, 10)
		return append(b, "\r\n"...), nil
	case n == 0:
		return b, nil
	}
	b = append(b, "Transfer-Encoding: chunked\r\n"...)
	if len(r.Trailer) == 0 {
		return b, nil
	}
	names := slices.Sorted(maps.Keys(r.Trailer))
	for _, name := range names {
		if !httpguts.ValidTrailerHeader(name) {
			return b, fmt.Errorf("trailer %q is invalid", name)
		}
	}
	return appendField(b, "Trailer", []string{strings.Join(names, ", ")})
}

// bodyLength returns the length of the request's body in bytes, -1 if it is not known.
func bodyLength(r *http.Request) int64 {
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		return 0
	case r.ContentLength == 0:
		return -1
	}
	return r.ContentLength
}

// bodyError is an error of reading the request's body.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

// chunkRoom is what is before the data of a chunk: its size, in at most 8 digits, and a line end.
const chunkRoom = 10

// writeBody writes the request's body, and the trailers behind it. Each piece is written as it comes,
// through the buffer.
func writeBody(w io.Writer, r *http.Request, buffer []byte) error {
	left := bodyLength(r)
	if left < 0 {
		return writeChunks(w, r, buffer)
	}
	for left > 0 {
		n, err := r.Body.Read(buffer[:min(int64(len(buffer)), left)])
		left -= int64(n)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if left > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if left > 0 && err != nil {
			return bodyError{err}
		}
	}
	return nil
}

func writeChunks(w io.Writer, r *http.Request, buffer []byte) error {
	for {
		n, err := r.Body.Read(buffer[chunkRoom : len(buffer)-2])
		if n > 0 {
			size := strconv.AppendInt(nil, int64(n), 16)
			begin := chunkRoom - 2 - len(size)
			copy(buffer[begin:], size)
			copy(buffer[chunkRoom-2:], "\r\n")
			copy(buffer[chunkRoom+n:], "\r\n")
			if _, err := w.Write(buffer[begin : chunkRoom+n+2]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bodyError{err}
		}
	}
	end := append(buffer[:0], "0\r\n"...)
	for name, values := range r.Trailer {
		var err error
		if end, err = appendField(end, name, values); err != nil {
			return bodyError{err}
		}
	}
	_, err := w.Write(append(end, "\r\n"...))
	return err
}

package boundary

import (
	"bytes"
	"strconv"
)

// requests follows the requests of HTTP/1 in the bytes that a client sends, before net/http
// reads them. It sees what net/http does not pass on: which header fields give the length of
// a body, and whether another request has begun to arrive.
//
// It frames requests as net/http does. Where it cannot, because net/http refuses them or a
// later release accepts more, it loses track: requests are not counted any more, and one
// that is not counted is the last of its connection.
type requests struct {
	part  requestPart
	line  []byte // the beginning of a line whose end has not come
	left  int64  // bytes of the body, or of its chunk, that are to come
	begun int    // requests of which at least one byte has come
	whole int    // requests whose header has come
	bad   int    // the number of the one whose length is given in two ways; 0: none

	passed int64 // bytes, of all
	until  int64 // see awaits
	due    int   // the last request that began before until
	ahead  bool  // awaits has been true

	headerLines
}

// headerLines is what the lines of the header under way, or of the last one, say.
type headerLines struct {
	first    bool // the first line is awaited
	chunked  bool // Transfer-Encoding, whatever its value
	sized    bool // Content-Length
	folded   bool // one of the two goes on in the next line
	old      bool // HTTP/1.0
	switches bool // another protocol may follow
	last     bool // the line before was one of the two
}

type requestPart uint8

const (
	between     requestPart = iota // two requests, or before the first
	header                         // lines
	body                           // of known length
	chunkSize                      // line
	chunkData                      // and the line end after it
	trailerPart                    // lines
	lost
)

// follow takes what has come, without the line ends before a request, which it removes:
// RFC 9112, section 2.2. It returns how much is left. What follows on a request for
// another protocol may be of that, and stays as it is.
func (q *requests) follow(p []byte) (kept int) {
	for at := 0; at < len(p); {
		if q.part == between && !q.switches && (p[at] == '\r' || p[at] == '\n') {
			at++
			q.passed++
			continue
		}
		n := q.next(p[at:])
		if kept != at {
			copy(p[kept:], p[at:at+n])
		}
		q.passed += int64(n)
		kept, at = kept+n, at+n
	}
	return kept
}

// next takes some of p, and returns how much.
func (q *requests) next(p []byte) (n int) {
	switch q.part {
	case lost:
		return len(p)
	case body, chunkData:
		n = int(min(int64(len(p)), q.left))
		if q.left -= int64(n); q.left > 0 {
			return n
		}
		if q.part == body {
			q.part = between
		} else {
			q.part = chunkSize
		}
		return n
	case between:
		q.part, q.left, q.headerLines = header, 0, headerLines{first: true}
		q.begun++
		if q.passed < q.until {
			q.due = q.begun
		}
	}
	n = bytes.IndexByte(p, '\n') + 1
	if n == 0 {
		q.line = append(q.line, p...)
		return len(p)
	}
	line := p[:n-1]
	if len(q.line) > 0 {
		line = append(q.line, line...)
		q.line = nil
	}
	q.take(bytes.TrimSuffix(line, []byte("\r")))
	return n
}

// take takes a line, without its end.
func (q *requests) take(line []byte) {
	switch {
	case q.part == chunkSize:
		q.startChunk(line)
	case q.part == trailerPart:
		if len(line) == 0 {
			q.part = between
		}
	case q.first && len(line) == 0: // an empty line after a request for another protocol
		q.part, q.begun, q.switches = between, q.begun-1, true
	case q.first:
		q.first = false
		q.old = bytes.HasSuffix(line, []byte(" HTTP/1.0"))
		q.switches = bytes.HasPrefix(line, []byte("CONNECT "))
		if bytes.HasPrefix(line, []byte("PRI ")) { // HTTP/2
			q.part = lost
		}
	case len(line) == 0:
		q.startBody()
	default:
		q.takeField(line)
	}
}

func (q *requests) takeField(line []byte) {
	if line[0] == ' ' || line[0] == '\t' { // goes on from the line before: RFC 9112, section 5.2
		q.folded = q.folded || q.last
		return
	}
	q.last = false
	name, value, _ := bytes.Cut(line, []byte(":"))
	switch {
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		q.chunked, q.last = true, true
	case bytes.EqualFold(name, []byte("Content-Length")):
		n, err := strconv.ParseUint(string(bytes.Trim(value, " \t")), 10, 63)
		if err != nil {
			q.left = -1
		} else if q.left >= 0 {
			q.left = int64(n)
		}
		q.sized, q.last = true, true
	case bytes.EqualFold(name, []byte("Upgrade")):
		q.switches = true
	}
}

// startBody is called when the header has come. RFC 9112, section 6.1, wants a connection
// closed on which a request gives its length twice: an intermediary may have taken it for
// another request.
func (q *requests) startBody() {
	q.whole++
	switch {
	case q.chunked && (q.sized || q.old), q.folded:
		q.bad, q.part = q.whole, lost
	case q.chunked:
		q.part = chunkSize
	case q.left < 0:
		q.part = lost
	case q.left > 0:
		q.part = body
	default:
		q.part = between
	}
}

func (q *requests) startChunk(line []byte) {
	size, _, _ := bytes.Cut(line, []byte(";"))
	n, err := strconv.ParseUint(string(bytes.TrimRight(size, " \t")), 16, 62)
	switch {
	case err != nil:
		q.part = lost
	case n == 0:
		q.part = trailerPart
	default:
		q.part, q.left = chunkData, int64(n)+int64(len("\r\n"))
	}
}

// awaits reports whether a request had arrived, or begun to, behind the one with that number
// when awaits was called first. pending is an upper bound of the bytes that have come and did
// not pass yet. Later requests do not count, so that a client that sends without end is not
// waited for.
func (q *requests) awaits(number int, pending int64) bool {
	if q.until == 0 {
		q.until, q.due = q.passed+pending, q.begun
	}
	if pending == 0 {
		q.until = min(q.until, q.passed)
	}
	within := q.begun == number && q.part != between // what is pending is of its body
	awaited := q.due > number || q.passed < q.until && !within
	q.ahead = q.ahead || awaited
	return awaited
}

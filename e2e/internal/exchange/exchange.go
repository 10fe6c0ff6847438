// Package exchange holds requests and the answers that belong to them.
package exchange

import (
	"fmt"

	"example.com/baton/e2e/internal/http1"
)

// Files alternates GET of the smaller files and POST, which a file server does not allow.
func Files() []Exchange {
	var all []Exchange
	for _, n := range FileSizes[:3] {
		path := fmt.Sprintf("/%d.bin", n)
		all = append(all,
			New("GET", path, nil, 200, Pattern(n)),
			New("POST", path, Pattern(500), 405, nil))
	}
	return all
}

// Echo alternates GET and POST of several sizes, made to an echo backend below a prefix.
func Echo(prefix string) []Exchange {
	var all []Exchange
	for _, n := range []int{100, 700, 16_256} {
		for _, query := range []string{"", "?chunked"} {
			all = append(all,
				New("GET", fmt.Sprintf("%s/fixed/%d%s", prefix, n, query), nil, 200, Pattern(n)),
				New("POST", prefix+"/echo"+query, Pattern(n), 200, Pattern(n)))
		}
	}
	return all
}

// Failure is one way of losing a request.
type Failure int

const (
	NoConnection      Failure = iota // no connection
	NotWritten                       // the first request on a connection could not be sent
	NotAnswered                      // end or reset before or within the response header
	Truncated                        // end or reset within the body
	WrongStatus                      // not the status that belongs to the request, or no HTTP at all
	WrongBody                        // a whole body, but the wrong one
	ClosedUnannounced                // a kept connection closed under a request, with no "Connection: close" or GOAWAY before
	Failures
)

func (f Failure) String() string {
	return [...]string{"dial", "write", "read", "truncated", "status", "body", "unannounced close"}[f]
}

// Exchange is a request and the answer that belongs to it.
type Exchange struct {
	Method, Path string
	Upload       []byte
	Keep         []byte // the whole request on a connection that is kept
	End          []byte // the same with "Connection: close"
	Status       int
	Body         []byte // nil: any
}

func New(method, path string, body []byte, status int, want []byte) Exchange {
	return Exchange{
		Method: method, Path: path, Upload: body,
		Keep:   http1.Request(method, path, body),
		End:    http1.Request(method, path, body, "Connection: close"),
		Status: status,
		Body:   want,
	}
}

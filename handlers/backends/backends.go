// Package backends has what a reverse proxy reports of the applications behind it: for the
// status, its page, and metrics.
package backends

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Up is the state of a backend that gets requests.
const Up = "up"

// Backend is what is known of a backend.
type Backend struct {
	Name       string         `json:"name"`        // scheme and host of its URL, or unix: and the path of its socket
	Prefixes   []string       `json:"prefixes"`    // of the rules that lead to it
	State      string         `json:"state"`       // up, down, leaving or sick; only one that is up gets requests
	InProgress int            `json:"in_progress"` // requests, upgraded connections among them, but for those of a predecessor
	Requests   map[int]uint64 `json:"requests"`    // that it has answered, by status code
	Errors     uint64         `json:"errors"`      // connects and requests that failed, repeated ones as well
}

// Classes are those that status codes have in metrics.
var Classes = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx", "other"}

// ByClass returns the requests by the classes of their codes, in the order of Classes.
func (b Backend) ByClass() (byClass [len(Classes)]uint64) {
	for code, n := range b.Requests {
		at := len(Classes) - 1
		if code >= 100 && code < 600 {
			at = code/100 - 1
		}
		byClass[at] += n
	}
	return byClass
}

// Answered returns the number of requests that the backend has answered.
func (b Backend) Answered() (n uint64) {
	for _, class := range b.ByClass() {
		n += class
	}
	return n
}

// Failed returns the number of those that it has answered with 5xx.
func (b Backend) Failed() uint64 { return b.ByClass()[4] }

// Report is what is known of all backends of a generation, which counts from its beginning.
type Report struct {
	Backends []Backend `json:"backends"`
	Waiting  int       `json:"waiting_requests"` // for a backend that is up
}

// JSON returns the report for the status, nothing if there is no backend. Parse reads it.
func (r Report) JSON() json.RawMessage {
	if len(r.Backends) == 0 {
		return nil
	}
	text, _ := json.Marshal(r) // strings and numbers always marshal
	return text
}

// Parse returns the report in a status, which may be that of another release.
func Parse(text json.RawMessage) (r Report) {
	if json.Unmarshal(text, &r) != nil {
		return Report{}
	}
	return r
}

// WriteTo writes the report as a table, and nothing if there is no backend.
func (r Report) WriteTo(w io.Writer) (int64, error) {
	if len(r.Backends) == 0 {
		return 0, nil
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BACKEND\tFOR\tSTATE\tREQUESTS\tANSWERED\t5XX\tERRORS")
	for _, backend := range r.Backends {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\n", backend.Name, strings.Join(backend.Prefixes, " "), backend.State,
			backend.InProgress, backend.Answered(), backend.Failed(), backend.Errors)
	}
	t.Flush()
	switch r.Waiting {
	case 0:
	case 1:
		b.WriteString("1 request waits for a backend\n")
	default:
		fmt.Fprintf(&b, "%d requests wait for a backend\n", r.Waiting)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

package deploy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A check is what is asked for a health check.
type check struct {
	What      []string // paths, of which each is asked for at each of the addresses, and whole URLs
	Addresses []string // of the service
	Within    time.Duration
}

// A reply is an answer to a request of a check.
type reply struct {
	Label string
	Code  int  // 0: none
	Empty bool // the body
	Err   error
}

// rank orders answers from good to bad: a release should answer no worse than the one before.
func (r reply) rank() int {
	switch {
	case r.Code < 200:
		return 5
	case r.Code < 300 && !r.Empty:
		return 0
	case r.Code < 300:
		return 1
	}
	return min(r.Code/100, 5) - 1
}

// String is the answer as people read it.
func (r reply) String() string {
	if r.Empty && r.Code < 300 {
		return fmt.Sprintf("%s answers %d without a body", r.Label, r.Code)
	}
	return fmt.Sprintf("%s answers %d", r.Label, r.Code)
}

// judge fails if an answer is not good: 500 or above, or worse than the one before, of which the label
// is empty if there was none.
func (r reply) judge(before reply) error {
	switch {
	case r.Err != nil:
		return fmt.Errorf("%s does not answer: %w", r.Label, r.Err)
	case r.Code >= 500:
		return errors.New(r.String())
	case before.Label != "" && r.rank() > before.rank():
		was := fmt.Sprint(before.Code)
		if before.rank() == 0 && r.rank() == 1 {
			was += " with one"
		}
		return fmt.Errorf("%s, and the release before answered %s", r, was)
	}
	return nil
}

// ask makes all of the requests.
func (c check) ask() (all []reply) {
	for _, what := range c.What {
		if strings.Contains(what, "://") {
			all = append(all, c.fetch(what, what, "", false))
			continue
		}
		label := strings.TrimSuffix(what, "/")
		if what != "/" {
			label = what
		}
		for _, address := range c.Addresses {
			authority, socket := dialable(address)
			r := c.fetch(address+label, "http://"+authority+what, socket, false)
			if errors.Is(r.Err, errWantsTLS) { // its certificate is for names, not for this address
				r = c.fetch(address+label, "https://"+authority+what, socket, true)
			}
			all = append(all, r)
		}
	}
	return all
}

// pauses are those before each attempt. A test has shorter ones.
var pauses = [...]time.Duration{0, 500 * time.Millisecond, time.Second}

// run makes the requests until all answers are good, three times at most: that allows for a bad moment, as
// of a backend that was just restarted. It returns the answers, for people.
func (c check) run(before []reply) (answers string, err error) {
	of := make(map[string]reply)
	for _, r := range before {
		of[r.Label] = r
	}
	for _, pause := range pauses {
		time.Sleep(pause)
		var good []string
		err = nil
		for _, r := range c.ask() {
			err = cmp.Or(err, r.judge(of[r.Label]))
			good = append(good, r.String())
		}
		if err == nil {
			return cmp.Or(strings.Join(good, ", "), "no address is known for the health check; --health names one"), nil
		}
	}
	return "", err
}

// format writes answers, a line each, for parse.
func format(all []reply) string {
	var b strings.Builder
	for _, r := range all {
		if r.Err == nil {
			fmt.Fprintf(&b, "%d %t %s\n", r.Code, r.Empty, r.Label)
		}
	}
	return b.String()
}

func parseReplies(text string) (all []reply) {
	for line := range strings.Lines(text) {
		var r reply
		if _, err := fmt.Sscanf(line, "%d %t", &r.Code, &r.Empty); err == nil {
			r.Label = strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)[2]
			all = append(all, r)
		}
	}
	return all
}

// dialable returns what to ask for at an address that a server is bound to.
func dialable(address string) (authority, socket string) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return "localhost", path
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address, ""
	}
	switch host {
	case "", "*", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port), ""
}

var errWantsTLS = errors.New("it wants TLS")

// fetch makes one request. Proxies are not used, and redirections not followed.
func (c check) fetch(label, target, socket string, unverified bool) reply {
	ctx, cancel := context.WithTimeoutCause(context.Background(), c.Within, fmt.Errorf("not within %v", c.Within))
	defer cancel()
	r := reply{Label: label}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: unverified}}
	if socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	var response *http.Response
	if err == nil {
		response, err = transport.RoundTrip(request)
	}
	if err != nil {
		if outer := (*url.Error)(nil); errors.As(err, &outer) {
			err = outer.Err
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		r.Err = err
		return r
	}
	defer response.Body.Close()
	beginning, err := io.ReadAll(io.LimitReader(response.Body, 200))
	if err != nil && len(beginning) == 0 {
		r.Err = cmp.Or(context.Cause(ctx), err)
	}
	if response.StatusCode == http.StatusBadRequest && strings.Contains(string(beginning), "HTTP request to an HTTPS server") {
		r.Err = errWantsTLS
	}
	r.Code, r.Empty = response.StatusCode, len(beginning) == 0
	return r
}

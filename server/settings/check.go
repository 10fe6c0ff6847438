package settings

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// checkPause is how long after an answer that was not good enough a path is requested again.
const checkPause = 200 * time.Millisecond

// addCheck adds a path that a successor must answer.
func (s *Settings) addCheck(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	s.Checks = append(s.Checks, path)
	return nil
}

func checkPath(path string) error {
	if u, err := url.ParseRequestURI(path); err != nil || u.Host != "" || !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%q is not a path such as /health", path)
	}
	return nil
}

// Check requests the paths of Checks from a handler, without a connection, until it has answered
// each of them with a status below 400. The error is about the first that it has not when nine
// tenths of the time until ctx ends are over: with all of it there is nobody left to report to.
func (s Settings) Check(ctx context.Context, h http.Handler) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/10))
		defer cancel()
	}
	for _, path := range s.Checks {
		if err := s.await(ctx, h, path); err != nil {
			return fmt.Errorf("-check %s: %w", path, err)
		}
	}
	return nil
}

// await requests a path until it is answered well.
func (s Settings) await(ctx context.Context, h http.Handler, path string) (last error) {
	last = errors.New("got no answer")
	for {
		answered := make(chan error, 1)
		go func() { answered <- s.ask(ctx, h, path) }()
		select {
		case err := <-answered:
			if err == nil {
				return nil
			}
			if ctx.Err() == nil { // else it may be what has ended the request
				last = err
			}
		case <-ctx.Done():
			return last
		}
		select {
		case <-time.After(checkPause):
		case <-ctx.Done():
			return last
		}
	}
}

// ask requests a path once.
func (s Settings) ask(ctx context.Context, h http.Handler, path string) (err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	r.Host, r.RequestURI, r.RemoteAddr = "localhost", path, "127.0.0.1:0"
	r.Header.Set("User-Agent", "baton")
	if s.TLS.RedirectHTTPS { // the redirection is not what is to be checked
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}
	a := &answer{header: make(http.Header)}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("its handler panicked: %v", v)
		}
	}()
	h.ServeHTTP(a, r)
	if a.WriteHeader(http.StatusOK); a.status < 400 {
		return nil
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(a.begin), []byte("\n"))
	return fmt.Errorf("got %d %s: %q", a.status, http.StatusText(a.status), bytes.TrimSpace(line))
}

// answer is a response of which the beginning is kept.
type answer struct {
	header http.Header
	status int // the final one; 0: none yet
	begin  []byte
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.begin = append(a.begin, p[:min(len(p), 200-len(a.begin))]...)
	return len(p), nil
}

// Flush does nothing: nobody waits for it.
func (a *answer) Flush() {}

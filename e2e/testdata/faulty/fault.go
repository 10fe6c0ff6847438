package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/baton/handlers/proxy"
)

// faulty makes a release one that fails as the file fault in the working directory says:
//
//	exit N      at the Nth request
//	exit D      that long after the first request
//	panic N     in the handler, at the Nth request and at all that follow
//	deadlock D  that long after the first request: no handler returns any more
//	freeze D    that long after the first request: the process does nothing any more
//	leak N      at the Nth request and at all that follow: two descriptors are left open
//	memory N    at the Nth request and at all that follow: 8 MiB are kept
//	backend URL everything but WebSockets is passed on there
//	fail 0      it does not start
//	hang 0      its start has no end
func faulty(h http.Handler, applications *proxy.Proxy, err error) (http.Handler, *proxy.Proxy, error) {
	h, err = unsound(h, err)
	return h, applications, err
}

func unsound(h http.Handler, err error) (http.Handler, error) {
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile("fault")
	if err != nil {
		return nil, err
	}
	var kind, when string
	if _, err := fmt.Sscan(string(text), &kind, &when); err != nil {
		return nil, err
	}
	switch kind {
	case "backend":
		return toBackend(h, when)
	case "fail":
		return nil, errors.New("a fault at the start")
	case "hang":
		select {}
	}
	var mu sync.Mutex
	var kept [][]byte
	happen := map[string]func(){
		"exit":     func() { os.Exit(3) },
		"panic":    func() { panic("a panic of the handler") },
		"deadlock": func() { select {} },
		"freeze":   func() { syscall.Kill(os.Getpid(), syscall.SIGSTOP) },
		"leak":     func() { syscall.Pipe(make([]int, 2)) },
		"memory": func() {
			mu.Lock()
			defer mu.Unlock()
			kept = append(kept, bytes.Repeat([]byte{1}, 8<<20))
		},
	}[kind]
	due, err := after(when)
	if happen == nil || err != nil {
		return nil, fmt.Errorf("no such fault: %q", text)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if due() {
			happen()
		}
		h.ServeHTTP(w, r)
	}), nil
}

// toBackend passes requests on to a backend other than the configuration has it.
func toBackend(h http.Handler, target string) (http.Handler, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = 7 * time.Second
	passing := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			h.ServeHTTP(w, r)
			return
		}
		// The transport ends a connection whose backend answers before the end of the body has been read,
		// one of some 10,000, and the response with it.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		passing.ServeHTTP(w, r)
	}), nil
}

// after returns what says at each request whether the moment has come.
func after(when string) (due func() bool, err error) {
	if d, err := time.ParseDuration(when); err == nil {
		first := sync.OnceValue(time.Now)
		return func() bool { return time.Since(first()) >= d }, nil
	}
	n, err := strconv.ParseInt(when, 10, 64)
	var requests atomic.Int64
	return func() bool { return requests.Add(1) >= n }, err
}

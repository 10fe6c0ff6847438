package main

import (
	"fmt"
	"net/http"
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
func faulty(h http.Handler, applications *proxy.Proxy, err error) (http.Handler, *proxy.Proxy, error) {
	if err != nil {
		return nil, applications, err
	}
	text, err := os.ReadFile("fault")
	if err != nil {
		return nil, applications, err
	}
	var kind, when string
	if _, err := fmt.Sscan(string(text), &kind, &when); err != nil {
		return nil, applications, err
	}
	happen := map[string]func(){
		"exit":     func() { os.Exit(3) },
		"panic":    func() { panic("a panic of the handler") },
		"deadlock": func() { select {} },
		"freeze":   func() { syscall.Kill(os.Getpid(), syscall.SIGSTOP) },
		"leak":     func() { syscall.Pipe(make([]int, 2)) },
	}[kind]
	due, err := after(when)
	if happen == nil || err != nil {
		return nil, applications, fmt.Errorf("no such fault: %q", text)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if due() {
			happen()
		}
		h.ServeHTTP(w, r)
	}), applications, nil
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

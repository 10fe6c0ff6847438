// Program counting is a backend that writes down each request that it gets, for tests that restart it.
//
// It answers GET /fixed/N with N bytes, /healthz with nothing, and all else with the SHA-256 of the body. To the file -log it appends, with one
// write each, lines of its -name, an event and the request's id: "begin" with the method, "body" with the SHA-256 of
// the whole body, and "end" when all of the response is in the socket. It prints "ready" when it listens.
//
// At SIGTERM it closes its listener, and prints "closed". Each connection ends with its next response, which says so,
// or when Baton closes it. Then the program exits. A unix socket is to be replaced before, so that the listener's
// accept queue is empty when it is closed; that of a TCP port may not be.
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/baton/e2e/internal/exchange"
)

// work is how long an answer takes, so that there are always some that a kill hits.
const work = 10 * time.Millisecond

func main() {
	network := flag.String("network", "tcp", "`network` to listen on: tcp or unix")
	address := flag.String("address", "", "`address` to listen on; a unix socket replaces the one that is there")
	name := flag.String("name", "", "`name` in the log")
	logPath := flag.String("log", "", "`file` to append to")
	announce := flag.Bool("announce", false, "GET /healthz fails from the first SIGTERM on; the second one begins the stop")
	flag.Parse()
	file, err := os.OpenFile(*logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	ln, err := listen(*network, *address)
	if err != nil {
		log.Fatal(err)
	}
	b := &backend{name: *name, log: file}
	server := &http.Server{Handler: b, ConnState: b.count}
	go server.Serve(ln)
	fmt.Println("ready")
	<-signals
	b.leaving.Store(true)
	if *announce {
		<-signals
	}
	if *network == "unix" {
		time.Sleep(100 * time.Millisecond) // Serve empties the accept queue meanwhile
	}
	b.conns.Add(1) // so that Wait and Add may run at the same time
	ln.Close()
	fmt.Println("closed")
	b.conns.Done()
	b.conns.Wait()
}

// listen listens on an address that another process may still have: it waits until that has gone.
func listen(network, address string) (net.Listener, error) {
	if network == "unix" {
		ln, err := net.ListenUnix(network, &net.UnixAddr{Name: address + ".new", Net: network})
		if err != nil {
			return nil, err
		}
		ln.SetUnlinkOnClose(false)
		return ln, os.Rename(address+".new", address)
	}
	for range 6000 {
		ln, err := net.Listen(network, address)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return ln, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("%s is in use", address)
}

type backend struct {
	name    string
	log     io.Writer
	leaving atomic.Bool
	conns   sync.WaitGroup
}

// count counts the connections.
func (b *backend) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		b.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		b.conns.Done()
	}
}

func (b *backend) note(event, id, what string) {
	fmt.Fprintf(b.log, "%s %s %s %s\n", b.name, event, id, what)
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		if b.leaving.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	id := r.Header.Get("X-Request-Id")
	b.note("begin", id, r.Method)
	hash := sha256.New()
	if _, err := io.Copy(hash, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := fmt.Appendf(nil, "%x", hash.Sum(nil))
	b.note("body", id, string(answer))
	if _, size, ok := strings.Cut(r.URL.Path, "/fixed/"); ok {
		if n, err := strconv.Atoi(size); err == nil {
			answer = exchange.Pattern(n)
		}
	}
	time.Sleep(work)
	if b.leaving.Load() {
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.Write(answer)
	http.NewResponseController(w).Flush()
	b.note("end", id, r.Method)
}

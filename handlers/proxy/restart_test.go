package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

// ledger is what all lives of all backends have got.
type ledger struct {
	mu       sync.Mutex
	received map[string]int // times that a request's header has come, by id
	wrong    []string
}

func (l *ledger) receive(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.received[id]++
}

func (l *ledger) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// mortal is a backend that can be killed and started again at the same address. It checks the
// bodies that it gets.
type mortal struct {
	t                *testing.T
	ledger           *ledger
	network, address string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	serving  sync.WaitGroup
}

func newMortal(t *testing.T, l *ledger, network, address string) *mortal {
	t.Helper()
	m := &mortal{t: t, ledger: l, network: network, address: address}
	m.start()
	m.address = m.listener.Addr().String()
	t.Cleanup(m.kill)
	return m
}

func (m *mortal) target() string {
	if m.network == "unix" {
		return "unix:" + m.address
	}
	return "http://" + m.address
}

func (m *mortal) start() {
	listener, err := net.Listen(m.network, m.address)
	if err != nil {
		m.t.Error(err)
		return
	}
	m.mu.Lock()
	m.listener, m.conns = listener, make(map[net.Conn]bool)
	m.mu.Unlock()
	m.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			alive := m.listener == listener
			if alive {
				m.conns[conn] = true
			}
			m.mu.Unlock()
			if !alive {
				conn.Close()
				return
			}
			m.serving.Go(func() { m.serve(conn) })
		}
	})
}

// kill ends it as SIGKILL does: connections with something unread are reset.
func (m *mortal) kill() {
	m.mu.Lock()
	if m.listener == nil {
		m.mu.Unlock()
		return
	}
	m.listener.Close()
	conns := m.conns
	m.listener, m.conns = nil, nil
	m.mu.Unlock()
	for conn := range conns {
		conn.Close()
	}
	m.serving.Wait()
}

func (m *mortal) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		id := request.Header.Get("X-Id")
		m.ledger.receive(id)
		sum := sha256.New()
		if _, err := io.Copy(sum, request.Body); err != nil {
			return
		}
		hash := hex.EncodeToString(sum.Sum(nil))
		if want := request.Header.Get("X-Hash"); want != hash {
			m.ledger.complain("%s %s: body is cut or duplicated", request.Method, id)
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(hash), hash); err != nil {
			return
		}
	}
}

// restarted sends requests of all methods by several clients while killing goes on, and checks the ledger. Between two
// rounds each client gets an answer: how often a request is repeated that meets every one is bounded.
func restarted(t *testing.T, backends []*mortal, kill func(round int)) {
	t.Helper()
	l := backends[0].ledger
	var specs []string
	for _, b := range backends {
		specs = append(specs, "/="+b.target())
	}
	address, _ := serve(t, start(t, Options{Rules: rules(t, specs...), Wait: time.Minute, Logger: testserver.Discard()}))
	client := newClient(t)

	over := make(chan struct{})
	var clients sync.WaitGroup
	var mu sync.Mutex
	failed, sent := make(map[string]string), make(map[string]int)
	var answered [8]atomic.Int64
	for c := range answered {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(c), 1))
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				method := []string{"GET", "POST", "PUT", "GET", "POST", "PATCH"}[i%6]
				id := fmt.Sprintf("%s %d.%d", method, c, i)
				err := sendHashed(t, client, "http://"+address, method, id, random)
				mu.Lock()
				sent[method]++
				if err != nil {
					failed[id] = err.Error()
				}
				mu.Unlock()
				answered[c].Add(1)
			}
		})
	}
	for round := range 12 {
		kill(round)
		for c := range answered {
			before := answered[c].Load()
			await(t, "an answer to each client", func() bool { return answered[c].Load() > before })
		}
	}
	close(over)
	clients.Wait()

	l.mu.Lock()
	defer l.mu.Unlock()
	for _, wrong := range l.wrong {
		t.Error(wrong)
	}
	byMethod := make(map[string]int)
	for id, err := range failed {
		method, _, _ := strings.Cut(id, " ")
		byMethod[method]++
		if method == "GET" || method == "PUT" || !strings.HasPrefix(err, "status 502") {
			t.Errorf("%s, received %d times: %s", id, l.received[id], err)
		}
	}
	for id, times := range l.received {
		if times > 1 && (strings.HasPrefix(id, "POST") || strings.HasPrefix(id, "PATCH")) || times > 4 {
			t.Errorf("%s was received %d times", id, times)
		}
	}
	t.Logf("sent %v, failed %v", sent, byMethod)
}

func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func sendHashed(t *testing.T, client *http.Client, url, method, id string, random *rand.Rand) error {
	var body []byte
	if method != "GET" {
		size := 100 << 10
		if method == "PUT" { // larger ones may fail
			size = 20 << 10
		}
		body = bytes.Repeat([]byte{byte(random.Uint32()), byte(random.Uint32()), 'x'}, size/3)
	}
	sum := sha256.Sum256(body)
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.GetBody = nil // the client repeats nothing
	request.Header.Set("X-Id", id)
	request.Header.Set("X-Hash", hex.EncodeToString(sum[:]))
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != 200 {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	if string(got) != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("answer is that to another request")
	}
	return nil
}

// Backends are killed and come back under load. Clients see that only where bytes had been sent
// that must not be sent twice. The backend may not have read them.
func TestBackendsRestart(t *testing.T) {
	t.Parallel()
	newLedger := func() *ledger { return &ledger{received: make(map[string]int)} }
	for _, test := range []struct {
		name string
		n    int
		unix bool
		kill func(backends []*mortal, round int)
	}{
		{"one, and back at once", 1, false, func(b []*mortal, _ int) { b[0].kill(); b[0].start() }},
		{"one, and back later", 1, false, func(b []*mortal, _ int) { b[0].kill(); pause(100); b[0].start() }},
		{"a unix socket that is replaced", 1, true, func(b []*mortal, _ int) {
			b[0].kill()
			os.Remove(b[0].address)
			pause(30)
			b[0].start()
		}},
		{"two in turn", 2, false, func(b []*mortal, round int) { b[round%2].kill(); pause(30); b[round%2].start() }},
		{"two at once", 2, false, func(b []*mortal, _ int) {
			b[0].kill()
			b[1].kill()
			pause(50)
			b[1].start()
			b[0].start()
		}},
		{"three, rolling", 3, false, func(b []*mortal, round int) { b[round%3].kill(); pause(30); b[round%3].start() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLedger()
			var backends []*mortal
			for i := range test.n {
				if test.unix {
					backends = append(backends, newMortal(t, l, "unix", filepath.Join(t.TempDir(), fmt.Sprint(i))))
				} else {
					backends = append(backends, newMortal(t, l, "tcp", "127.0.0.1:0"))
				}
			}
			restarted(t, backends, func(round int) { test.kill(backends, round) })
		})
	}
}

// pause lets the load go on; nothing depends on how long.
func pause(milliseconds int) { time.Sleep(time.Duration(milliseconds) * time.Millisecond) }

// How fast requests that wait are answered when their backend is back.
func TestRecovery(t *testing.T) {
	t.Parallel()
	l := &ledger{received: make(map[string]int)}
	b := newMortal(t, l, "tcp", "127.0.0.1:0")
	p := start(t, Options{Rules: rules(t, "/="+b.target()), Wait: 10 * time.Minute, Logger: testserver.Discard()})
	address, _ := serve(t, p)
	client := newClient(t)
	for range 5 {
		b.kill()
		var clients sync.WaitGroup
		for i := range 50 {
			clients.Go(func() {
				if err := sendHashed(t, client, "http://"+address, "POST", fmt.Sprintf("POST %d", i), rand.New(rand.NewPCG(0, 0))); err != nil {
					t.Error(err)
				}
			})
		}
		await(t, "requests wait", func() bool { return p.Waiting() == 50 })
		b.start()
		began := time.Now()
		clients.Wait()
		t.Logf("50 requests of 100 KB answered %v after the backend's return", time.Since(began))
	}
}

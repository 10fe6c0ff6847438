package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Streams of requests made at random, cut in pieces at random: a service that is upgraded all the time, and moves its
// connections, has to answer them as one does that nobody touches.
//
//	go test ./e2e/migrate -run xxx -fuzz FuzzBoundary -fuzztime 5m -fuzzminimizetime 1x

// stream is a conversation as a client means to have it.
type stream struct {
	raw     []byte
	methods []string // of the requests, in order
	pieces  []piece  // in which raw is sent
	ends    bool     // the last request asks for the end of the connection
}

// piece is a part of a stream that is sent after a pause.
type piece struct {
	pause  time.Duration
	length int
}

// source gives the bytes of an input one after the other, and zeros when they are used up.
type source []byte

func (s *source) next() int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b)
}

const (
	maxRequests = 8
	maxPieces   = 200
	maxPause    = 120 * time.Millisecond // of all pieces of a stream together
)

// decode makes a stream of an input.
func decode(input []byte) stream {
	in := source(input)
	var s stream
	var raw bytes.Buffer
	for n := range 1 + in.next()%maxRequests {
		kind, size := in.next(), in.next()
		size *= 1 + kind>>4*8 // up to 30 KB
		body := exchange.Pattern(size)
		var header []string
		header = append(header, "Host: e2e.test", fmt.Sprintf("X-Request-Id: %d", n))
		line := func(method, version string) {
			query := ""
			if size%3 == 0 && version == "1.1" { // 1.0 knows no chunks: the connection would end
				query = "?chunked"
			}
			fmt.Fprintf(&raw, "%s /fuzz/%d%s HTTP/%s\r\n", method, n, query, version)
			s.methods = append(s.methods, method)
		}
		fields := func(more ...string) { raw.WriteString(strings.Join(append(header, more...), "\r\n") + "\r\n\r\n") }
		length := fmt.Sprintf("Content-Length: %d", size)
		switch kind % 12 {
		default:
			line("GET", "1.1")
			fields()
		case 1, 2:
			line("POST", "1.1")
			fields(length)
			raw.Write(body)
		case 3, 4:
			line("PUT", "1.1")
			fields("Transfer-Encoding: chunked")
			for rest := body; len(rest) > 0; {
				n := min(1+in.next()*4, len(rest))
				fmt.Fprintf(&raw, "%x\r\n%s\r\n", n, rest[:n])
				rest = rest[n:]
			}
			raw.WriteString("0\r\n\r\n")
		case 5:
			line("HEAD", "1.1")
			fields()
		case 6:
			line("GET", "1.0")
			fields("Connection: keep-alive")
		case 7:
			line("POST", "1.0")
			fields("Connection: keep-alive", length)
			raw.Write(body)
		case 8:
			line("GET", "1.1")
			fields("X-Long: " + strings.Repeat("x", size))
		case 9:
			line("POST", "1.1")
			fields("Expect: 100-continue", length)
			raw.Write(body)
		case 10:
			if kind > 200 { // not too often: it is the last
				line("GET", "1.1")
				fields("Connection: close")
				s.ends = true
			} else { // with an empty line after it, as some old clients have it (RFC 9112, 2.2)
				line("POST", "1.1")
				fields(length)
				raw.Write(body)
				raw.WriteString("\r\n")
			}
		}
		if s.ends {
			break
		}
	}
	s.raw = raw.Bytes()
	left := maxPause
	for rest := len(s.raw); rest > 0; {
		a, b := in.next(), in.next()
		p := piece{length: min(1+a, rest)}
		switch {
		case len(in) == 0 || a == 255 || len(s.pieces) == maxPieces:
			p.length = rest
		case a > 128:
			p.length = min((a-127)*50, rest)
		}
		if b%4 != 0 {
			p.pause = min(time.Duration(b)*100*time.Microsecond, left)
			left -= p.pause
		}
		rest -= p.length
		s.pieces = append(s.pieces, p)
	}
	return s
}

// converse sends a stream, and returns the answers with what may differ from one time to the next left out.
func (s *stream) converse(network, address string) (answers []string, err error) {
	c, err := http1.Dial(network, address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(await.Hang))
	var sent error
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		rest := s.raw
		for _, p := range s.pieces {
			time.Sleep(p.pause)
			if _, sent = c.Write(rest[:p.length]); sent != nil {
				return
			}
			rest = rest[p.length:]
		}
	})
	var resp http1.Response
	hear := func(method string) error {
		if err := c.Receive(method, &resp); err != nil {
			c.Close() // nothing more is to be sent
			return fmt.Errorf("answer %d: %w", len(answers)+1, err)
		}
		var b strings.Builder
		fields := strings.Split(strings.TrimSuffix(string(resp.Head), "\r\n"), "\r\n")
		fields = slices.DeleteFunc(fields, func(line string) bool { return strings.HasPrefix(line, "Date:") })
		slices.Sort(fields) // who says "Connection: close", net/http or the handler, says it in another place
		fmt.Fprintf(&b, "%d %t %q\n%s\n%s", resp.Status, resp.Close, fields, resp.Body, resp.TrailerLines)
		answers = append(answers, b.String())
		return nil
	}
	for _, method := range s.methods {
		if err := hear(method); err != nil {
			return answers, err
		}
	}
	wg.Wait()
	if sent != nil {
		return answers, sent
	}
	if s.ends {
		if e := c.AwaitClose(await.Hang); e != http1.Fin {
			return answers, fmt.Errorf("after the last answer: got %s, want FIN", e)
		}
		return answers, nil
	}
	// One more shows that the connection lives on and that nothing is left over.
	if _, err := c.Write(http1.Request("GET", "/fuzz/last", nil, "X-Request-Id: last")); err != nil {
		return answers, err
	}
	return answers, hear("GET")
}

// fuzzBackend answers with what it was asked, with or without a length.
func fuzzBackend(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := mirrored(r.Method, r.URL.RequestURI(), string(body))
	w.Header().Set("Content-Type", "text/plain") // else it may or may not be guessed, depending on what comes first
	if r.URL.Query().Has("chunked") {
		w.(http.Flusher).Flush()
	} else {
		w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	}
	io.WriteString(w, answer)
}

// upgradeAllTheTime upgrades a service about every 50 ms until the test ends. It counts the upgrades.
func upgradeAllTheTime(f *testing.F, b *service.Baton) (upgrades *atomic.Int64) {
	upgrades = new(atomic.Int64)
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-tick.C:
			}
			pid := b.ReadPID()
			if _, err := b.TryFollow(pid); err != nil {
				done <- err
				return
			}
			syscall.Kill(pid, syscall.SIGHUP)
			if !await.Holds(await.Hang, func() bool { now := b.ReadPID(); return now != 0 && now != pid }) {
				done <- errors.New("no successor")
				return
			}
			b.TryFollow(b.ReadPID())
			upgrades.Add(1)
		}
	}()
	f.Cleanup(func() {
		close(stop)
		if err := <-done; err != nil {
			f.Errorf("upgrade %d: %v", upgrades.Load()+1, err)
		}
	})
	return upgrades
}

func FuzzBoundary(f *testing.F) {
	tier.Slow(f, "plays 55 conversations through upgrades")
	behind := service.Args("-proxy", "/="+backend.Start(f, http.HandlerFunc(fuzzBackend)))
	calm := service.Start(f, behind, service.Args("-migrate=false"))
	// The grace is long: nobody who pipelines is to be sent Connection: close.
	upgraded := service.Start(f, service.Listen("HOST:PORT", "unix:DIR/public.sock"), behind, service.Args("-idle-grace", "25s"))
	upgrades := upgradeAllTheTime(f, upgraded)
	var inputs atomic.Int64 // none in the process that coordinates those that fuzz
	f.Cleanup(func() {
		out := upgraded.Metric("baton_connections_migrated_total", "direction", "out")
		f.Logf("%d upgrades, %v connections moved", upgrades.Load(), out)
		if out == 0 && inputs.Load() > 0 {
			f.Error("no connection has moved")
		}
	})

	f.Add([]byte{})                                                     // one GET
	f.Add([]byte{7})                                                    // eight of them at once
	f.Add([]byte{1, 1, 100, 1, 100, 0, 9})                              // two POSTs, byte by byte at their beginning
	f.Add([]byte{2, 3, 200, 50, 3, 200, 10, 6, 0, 40, 100, 40, 100})    // chunks, then HTTP/1.0
	f.Add([]byte{0, 8 + 240, 250, 128, 255, 128, 255, 128, 255})        // a long header in pieces
	f.Add([]byte{3, 250, 30, 250, 30, 0, 0, 250, 30})                   // the end of the connection is asked for
	f.Add([]byte{1, 241, 255, 1, 1, 255, 200, 128, 255, 200, 255, 200}) // a large body, then a small one
	random := rand.New(rand.NewPCG(1, 2))
	for range 48 {
		input := make([]byte, 20+random.IntN(60))
		for i := range input {
			input[i] = byte(random.Uint32())
		}
		f.Add(input)
	}

	f.Fuzz(func(t *testing.T, input []byte) {
		t.Parallel()
		inputs.Add(1)
		s := decode(input)
		want, err := s.converse(calm.Network, calm.Address)
		if err != nil {
			t.Fatalf("the service that nobody touches: %v\n%.2000q", err, s.raw)
		}
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				// Each meets the upgrades at another place.
				time.Sleep(time.Duration(i) * 17 * time.Millisecond)
				network, address := upgraded.Network, upgraded.Address
				if i%2 == 1 {
					network, address = service.SplitAddress(upgraded.Setup.Listen[1])
				}
				got, err := s.converse(network, address)
				if err != nil {
					t.Errorf("%s: %v\n%.2000q", network, err, s.raw)
				}
				for n := range min(len(got), len(want)) {
					if got[n] != want[n] {
						t.Errorf("%s, answer %d: got %.400q, want %.400q", network, n+1, got[n], want[n])
						return
					}
				}
				if err == nil && len(got) != len(want) {
					t.Errorf("%s: got %d answers, want %d", network, len(got), len(want))
				}
			})
		}
		wg.Wait()
	})
}

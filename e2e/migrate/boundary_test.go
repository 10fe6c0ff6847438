package migrate

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
)

// Connections that move to the successor while their clients do the worst at the worst moment: whatever
// has been sent is answered whole and in order on the same connection, by whichever generation.

// question is a request, and the body of the answer that belongs to it.
type question struct {
	method string
	raw    string
	want   string
}

// mirrored is what a mirror answers.
func mirrored(method, uri, body string) string { return method + " " + uri + "\n" + body }

func get(uri string) question {
	return question{"GET", string(http1.Request("GET", uri, nil)), mirrored("GET", uri, "")}
}

func post(uri, body string, fields ...string) question {
	return question{"POST", string(http1.Request("POST", uri, []byte(body), fields...)), mirrored("POST", uri, body)}
}

// postChunked sends the body in chunks of this size.
func postChunked(uri, body string, size int) question {
	var raw strings.Builder
	fmt.Fprintf(&raw, "POST %s HTTP/1.1\r\nHost: e2e.test\r\nTransfer-Encoding: chunked\r\n\r\n", uri)
	for rest := body; rest != ""; {
		n := min(size, len(rest))
		fmt.Fprintf(&raw, "%x\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	raw.WriteString("0\r\n\r\n")
	return question{"POST", raw.String(), mirrored("POST", uri, body)}
}

// rawOf is several requests as they are sent at once.
func rawOf(asks []question) string {
	var raw strings.Builder
	for _, a := range asks {
		raw.WriteString(a.raw)
	}
	return raw.String()
}

// mirror is a backend that answers with what it was asked, so that an answer in the wrong place shows.
type mirror struct {
	gate    chan struct{} // nil: open. Below /gate a body is not read before it is closed
	entered atomic.Int64  // requests below /gate
	met     atomic.Int64  // requests of /meet/N, which wait until N have come
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/gate"):
		m.entered.Add(1)
		select {
		case <-m.gate:
		case <-r.Context().Done():
			return
		}
	case strings.HasPrefix(r.URL.Path, "/meet/"):
		m.met.Add(1)
		n, _ := strconv.ParseInt(path.Base(r.URL.Path), 10, 64)
		if !await.Holds(5*time.Second, func() bool { return m.met.Load() >= n }) {
			http.Error(w, "alone", http.StatusGatewayTimeout)
			return
		}
	case strings.HasPrefix(r.URL.Path, "/slow"):
		time.Sleep(time.Millisecond)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := mirrored(r.Method, r.URL.RequestURI(), string(body))
	w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	io.WriteString(w, answer)
}

// talk is a connection on which everything has to be answered, in order.
type talk struct {
	*http1.Conn
	name string
	resp http1.Response
}

func (k *talk) say(raw string) error {
	k.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(k, raw); err != nil {
		return fmt.Errorf("write of %d bytes: %w", len(raw), err)
	}
	return nil
}

// hear reads the answers to what was asked, on a connection that is kept.
func (k *talk) hear(asks ...question) error {
	for i, a := range asks {
		if err := k.hearOne(a); err != nil {
			return fmt.Errorf("answer %d of %d: %w", i+1, len(asks), err)
		}
		if k.resp.Close {
			return fmt.Errorf("answer %d of %d: announces the end of the connection, want it kept", i+1, len(asks))
		}
	}
	return nil
}

// hearOne reads one answer, which may announce the end of the connection.
func (k *talk) hearOne(a question) error {
	k.SetReadDeadline(time.Now().Add(20 * time.Second))
	if err := k.Receive(a.method, &k.resp); err != nil {
		return err
	}
	if k.resp.Status != 200 || string(k.resp.Body) != a.want {
		return fmt.Errorf("got %d, %d bytes %.60q, want 200, %d bytes %.60q", k.resp.Status, len(k.resp.Body), k.resp.Body, len(a.want), a.want)
	}
	return nil
}

func (k *talk) exchange(asks ...question) error {
	if err := k.say(rawOf(asks)); err != nil {
		return err
	}
	return k.hear(asks...)
}

// expectEnd waits for the server to close in order.
func (k *talk) expectEnd() error {
	if e := k.AwaitClose(20 * time.Second); e != http1.Fin {
		return fmt.Errorf("got %s, want FIN", e)
	}
	return nil
}

// networks are where connections can move.
var networks = []string{"tcp", "unix"}

// moving starts a service in front of a mirror. The grace is long: a connection that does not move is seen
// by the drain that does not end.
func moving(t testing.TB, network string, m *mirror, options ...service.Option) *service.Baton {
	t.Helper()
	options = append(options, service.Patient(), service.Args("-proxy", "/="+backend.Start(t, m)))
	if !hasFlag(options, "-idle-grace") {
		options = append(options, service.Args("-idle-grace", "25s"))
	}
	if network == "unix" {
		options = append(options, service.Listen("unix:DIR/public.sock"))
	}
	return service.Start(t, options...)
}

func hasFlag(options []service.Option, flag string) bool {
	var s service.Setup
	for _, o := range options {
		o(&s)
	}
	for _, arg := range s.Args {
		if arg == flag {
			return true
		}
	}
	return false
}

// talks opens connections, and waits until the service has accepted them all.
func talks(t *testing.T, b *service.Baton, n int) []*talk {
	t.Helper()
	before := connectionsOf(b)
	all := make([]*talk, n)
	for i := range all {
		all[i] = &talk{Conn: b.Dial(), name: fmt.Sprint(i + 1)}
	}
	if !await.Holds(10*time.Second, func() bool { return connectionsOf(b) >= before+n }) {
		t.Fatalf("accepted connections: got %d, want %d and the %d of before", connectionsOf(b), n, before)
	}
	return all
}

// connectionsOf counts the connections of all generations.
func connectionsOf(b *service.Baton) (n int) {
	b.T.Helper()
	for _, g := range b.Status().Generations {
		n += g.Connections.New + g.Connections.Active + g.Connections.Idle
	}
	return n
}

// each does something on all connections at once, and fails the test for each on which that fails.
func each(t *testing.T, all []*talk, what string, do func(k *talk, random *rand.Rand) error) {
	t.Helper()
	var failed atomic.Int64
	var wg sync.WaitGroup
	for i, k := range all {
		wg.Go(func() {
			if err := do(k, rand.New(rand.NewPCG(uint64(i), 1))); err != nil && failed.Add(1) <= 10 {
				t.Errorf("%s, connection %s: %v", what, k.name, err)
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Fatalf("%s: %d of %d connections failed", what, n, len(all))
	}
}

// handoff begins an upgrade, and returns in the moment in which the PID file names the successor: it serves,
// and the predecessor is about to move its connections.
func handoff(t *testing.T, b *service.Baton) (result func() *service.Upgraded) {
	t.Helper()
	pid := b.PID()
	result = b.UpgradeMeanwhile()
	awaitNewPID(t, b, pid)
	return result
}

// awaitNewPID waits until the PID file names another process, and looks more often than await.
func awaitNewPID(t *testing.T, b *service.Baton, pid int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		if now := b.ReadPID(); now != 0 && now != pid {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no successor within 20 s")
		}
	}
}

// atRandom waits for a while of random length: short enough to be in the midst of the move, or a bit longer.
func atRandom(random *rand.Rand) {
	most := 4 * time.Millisecond
	if random.IntN(4) == 0 {
		most = 40 * time.Millisecond
	}
	time.Sleep(time.Duration(random.Int64N(int64(most))))
}

// around makes an upgrade, and does something on each connection at a moment of its own around the handoff.
// Then every connection has to live in the successor, and the predecessor to be gone.
func around(t *testing.T, b *service.Baton, all []*talk, what string, do func(k *talk, random *rand.Rand) error) *service.Upgraded {
	t.Helper()
	predecessor := b.Follow(b.PID())
	begin := make(chan struct{})
	done := make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		each(t, all, what, func(k *talk, random *rand.Rand) error {
			<-begin
			atRandom(random)
			return do(k, random)
		})
	}()
	result := func() func() *service.Upgraded {
		defer close(begin)
		return handoff(t, b)
	}()
	<-done
	if t.Failed() {
		t.FailNow()
	}
	if !predecessor.Within(5 * time.Second) {
		t.Fatalf("%s: predecessor alive 5 s after the last answer, want every connection moved; %+v", what, b.Status().Generations)
	}
	u := result()
	checkNoneClosed(t, u)
	if n := u.Predecessor.Moved; n != len(all) {
		t.Errorf("%s: %d connections reported to have moved, want %d", what, n, len(all))
	}
	return u
}

// checkNoneClosed checks that a drain ended no connection of its own accord.
func checkNoneClosed(t *testing.T, u *service.Upgraded) {
	t.Helper()
	c := u.Predecessor.Connections
	if u.Code != 0 || !u.Predecessor.Drained || c.Announced+c.Grace+c.Cut+c.Timeout+c.Error != 0 {
		t.Errorf("drain: got exit code %d, %+v, want no connection closed", u.Code, u.Predecessor)
	}
}

// checkAllMoved checks that the generation that serves answers on every connection.
func checkAllMoved(t *testing.T, b *service.Baton, all []*talk) {
	t.Helper()
	mark := rand.Uint32()
	paths := make(map[*talk]string)
	for i, k := range all {
		paths[k] = fmt.Sprintf("/who/%x/%d", mark, i)
	}
	each(t, all, "last request", func(k *talk, _ *rand.Rand) error { return k.exchange(get(paths[k])) })
	var answered map[string]int
	await.Until(t, 10*time.Second, "lines of the access log", func() bool {
		answered = answerers(b, fmt.Sprintf("/who/%x/", mark))
		return len(answered) == len(all)
	})
	pid := b.PID()
	for _, k := range all {
		if got := answered[paths[k]]; got != pid {
			t.Errorf("connection %s: answered by %d, want %d, which serves", k.name, got, pid)
		}
	}
}

// answerers returns which processes have answered the requests below a path, by the access log, in which a line
// comes after the answer.
func answerers(b *service.Baton, prefix string) map[string]int {
	b.T.Helper()
	pids := make(map[string]int)
	for line := range strings.Lines(b.Log()) {
		var entry struct {
			Path string
			PID  int
		}
		if strings.Contains(line, prefix) && json.Unmarshal([]byte(line), &entry) == nil && strings.HasPrefix(entry.Path, prefix) {
			pids[entry.Path] = entry.PID
		}
	}
	return pids
}

// One byte of the next request, sent exactly while the connection moves; then the rest.
func TestOneByteWhileMoving(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			all := talks(t, b, 150)
			each(t, all[:100], "first request", func(k *talk, _ *rand.Rand) error { return k.exchange(get("/first/" + k.name)) })
			for round := range 2 {
				around(t, b, all, "request in two parts", func(k *talk, random *rand.Rand) error {
					a := get(fmt.Sprintf("/round/%d/%s", round, k.name))
					if random.IntN(2) == 0 {
						a = post(fmt.Sprintf("/round/%d/%s", round, k.name), "a body")
					}
					if err := k.say(a.raw[:1]); err != nil {
						return err
					}
					atRandom(random)
					if err := k.say(a.raw[1:]); err != nil {
						return err
					}
					return k.hear(a)
				})
			}
			checkAllMoved(t, b, all)
		})
	}
}

// Requests that are split at every byte, with the upgrade between the two parts.
func TestSplitAtEveryByte(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			streams := func(id string) [][]question {
				return [][]question{
					{get("/a" + id)},
					{get("/b" + id), get("/c" + id)},
					{post("/d"+id, "a body"), get("/e" + id)},
					{postChunked("/f"+id, "some chunks", 5), get("/g" + id)},
				}
			}
			// One connection for each place to split one of the streams.
			type place struct{ stream, split int }
			var places []place
			for i, stream := range streams(".00") {
				for split := range len(rawOf(stream)) {
					places = append(places, place{i, split})
				}
			}
			all := talks(t, b, len(places))
			at := make(map[*talk]place)
			for i, k := range all {
				at[k] = places[i]
				k.name = fmt.Sprintf("%d (stream %d split after %d bytes)", i+1, places[i].stream+1, places[i].split)
			}
			for round := range 2 {
				parts := func(k *talk) (stream []question, before, after string) {
					stream = streams(fmt.Sprintf(".%d%d", round, round))[at[k].stream]
					raw := rawOf(stream)
					return stream, raw[:at[k].split], raw[at[k].split:]
				}
				each(t, all, "first part", func(k *talk, _ *rand.Rand) error {
					_, before, _ := parts(k)
					return k.say(before)
				})
				around(t, b, all, "second part", func(k *talk, random *rand.Rand) error {
					if round == 1 { // when all others have moved
						time.Sleep(100 * time.Millisecond)
					}
					stream, _, after := parts(k)
					if err := k.say(after); err != nil {
						return err
					}
					return k.hear(stream...)
				})
			}
			checkAllMoved(t, b, all)
		})
	}
}

// Three requests that arrive at once around the handoff: each boundary between them is one at which the connection must not move.
func TestPipelinedWhileMoving(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			all := talks(t, b, 60)
			for round := range 2 {
				around(t, b, all, "three requests", func(k *talk, random *rand.Rand) error {
					for i := range 5 {
						uri := fmt.Sprintf("/%d/%d/%s", round, i, k.name)
						if err := k.exchange(get(uri+"/a"), post(uri+"/b", "a body"), get(uri+"/c")); err != nil {
							return err
						}
						atRandom(random)
					}
					return nil
				})
			}
			checkAllMoved(t, b, all)
		})
	}
}

// Bodies of which one part comes before the upgrade and the rest after it.
func TestBodyAcrossTheUpgrade(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			body := string(exchange.Pattern(200_000))
			type straddle struct {
				name  string
				ask   question
				split int
			}
			var cases []straddle
			for _, size := range []int{100, 5_000, len(body)} {
				for kind, a := range map[string]question{
					"length":       post(fmt.Sprintf("/length/%d", size), body[:size]),
					"one chunk":    postChunked(fmt.Sprintf("/chunk/%d", size), body[:size], size),
					"small chunks": postChunked(fmt.Sprintf("/chunks/%d", size), body[:size], 1+size/7),
				} {
					header := strings.Index(a.raw, "\r\n\r\n") + 4
					for _, split := range []int{header, header + 1, header + 4, header + (len(a.raw)-header)/2, len(a.raw) - 6, len(a.raw) - 3, len(a.raw) - 1} {
						cases = append(cases, straddle{fmt.Sprintf("%d bytes, %s, split after %d", size, kind, split-header), a, split})
					}
				}
			}
			all := talks(t, b, len(cases))
			at := make(map[*talk]straddle)
			for i, k := range all {
				k.name, at[k] = cases[i].name, cases[i]
			}
			for round := range 2 {
				each(t, all, "first part", func(k *talk, _ *rand.Rand) error { return k.say(at[k].ask.raw[:at[k].split]) })
				await.Until(t, 10*time.Second, "requests under way", func() bool { return requestsInFlight(b) == len(all) })
				around(t, b, all, "second part", func(k *talk, _ *rand.Rand) error {
					// The next request comes with the end of this one's body, to some.
					next := get(fmt.Sprintf("/next/%d", round))
					if at[k].split%2 == 0 {
						next.raw = ""
					}
					if err := k.say(at[k].ask.raw[at[k].split:] + next.raw); err != nil {
						return err
					}
					if err := k.hear(at[k].ask); err != nil || next.raw == "" {
						return err
					}
					return k.hear(next)
				})
			}
			checkAllMoved(t, b, all)
		})
	}
}

// requestsInFlight counts the requests of all generations.
func requestsInFlight(b *service.Baton) (n int) {
	b.T.Helper()
	for _, g := range b.Status().Generations {
		n += g.RequestsInFlight
	}
	return n
}

// A client that waits to be told to send its body, with the upgrade before and after it is told.
func TestExpectContinueAcrossTheUpgrade(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			m := &mirror{gate: make(chan struct{})}
			b := moving(t, network, m)
			open := sync.OnceFunc(func() { close(m.gate) })
			t.Cleanup(open)

			const perCase = 20
			all := talks(t, b, 4*perCase)
			kinds := []string{"/around/", "/header/", "/told/", "/gate/"}
			kind := make(map[*talk]string)
			for i, k := range all {
				kind[k] = kinds[i/perCase]
				k.name = kind[k] + fmt.Sprint(i+1)
			}
			ofTalk := func(k *talk) (a question, header, body string) {
				body = "what " + k.name + " has to say"
				a = post(k.name, body, "Expect: 100-continue")
				return a, strings.TrimSuffix(a.raw, body), body
			}
			told := func(k *talk) error {
				k.SetReadDeadline(time.Now().Add(20 * time.Second))
				if err := k.ReadHead(&k.resp); err != nil {
					return err
				}
				if k.resp.Status != 100 {
					return fmt.Errorf("got %d, want 100", k.resp.Status)
				}
				return nil
			}
			each(t, all, "before", func(k *talk, _ *rand.Rand) error {
				_, header, _ := ofTalk(k)
				switch kind[k] {
				case "/header/": // all but the last byte
					return k.say(header[:len(header)-1])
				case "/told/":
					if err := k.say(header); err != nil {
						return err
					}
					return told(k)
				case "/gate/": // the backend does not ask for it yet
					return k.say(header)
				}
				return nil
			})
			await.Until(t, 10*time.Second, "requests in the backend", func() bool { return m.entered.Load() == perCase })
			around(t, b, all, "after", func(k *talk, random *rand.Rand) error {
				a, header, body := ofTalk(k)
				var err error
				switch kind[k] {
				case "/around/":
					if err = k.say(header); err == nil {
						err = told(k)
					}
				case "/header/":
					if err = k.say(header[len(header)-1:]); err == nil {
						err = told(k)
					}
				case "/gate/":
					open()
					err = told(k)
				}
				if err != nil {
					return err
				}
				atRandom(random)
				if err := k.say(body); err != nil {
					return err
				}
				return k.hear(a)
			})
			checkAllMoved(t, b, all)
		})
	}
}

// Clients that go while their connection moves: half, in order, or with a reset. Each gets what it has asked for if it
// can, nobody else notices, and nothing of them is left.
func TestClientsLeaveWhileMoving(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			options := []service.Option{service.Files(t), service.Patient(), service.Args("-idle-grace", "25s")}
			if network == "unix" {
				options = append(options, service.Listen("unix:DIR/public.sock"))
			}
			b := service.Start(t, options...)
			whole := question{"GET", string(http1.Request("GET", "/4000.bin", nil)), string(exchange.Pattern(4000))}
			halfClose := func(k *talk) error { return k.Conn.Conn.(interface{ CloseWrite() error }).CloseWrite() }
			for round := range 3 {
				all := talks(t, b, 160)
				each(t, all[:120], "first request", func(k *talk, _ *rand.Rand) error { return k.exchange(whole) })
				predecessor := b.Follow(b.PID())
				stayed := all[:40:40]
				result := handoff(t, b)
				each(t, all, fmt.Sprintf("round %d", round+1), func(k *talk, random *rand.Rand) error {
					atRandom(random)
					if slices.Contains(stayed, k) {
						return k.exchange(whole)
					}
					switch random.IntN(7) {
					case 0: // with a request on its way
						if err := k.say(whole.raw); err != nil {
							return err
						}
						if err := halfClose(k); err != nil {
							return err
						}
						if err := k.hearOne(whole); err != nil {
							return err
						}
						return k.expectEnd()
					case 1:
						if err := halfClose(k); err != nil {
							return err
						}
						return k.expectEnd()
					case 2: // within a header: nothing is owed but an end
						if err := k.say(whole.raw[:10]); err != nil {
							return err
						}
						if err := halfClose(k); err != nil {
							return err
						}
						k.SetReadDeadline(time.Now().Add(20 * time.Second))
						if _, err := io.Copy(io.Discard, k.R); http1.EndingOf(err) == http1.StillOn {
							return fmt.Errorf("still open")
						}
						return nil
					case 3:
						if err := k.say(whole.raw); err != nil {
							return err
						}
						resetIt(k)
					case 4:
						resetIt(k)
					case 5:
						if err := k.say(whole.raw[:10]); err != nil {
							return err
						}
						k.Close()
					default:
						k.Close()
					}
					return nil
				})
				if !predecessor.Within(5 * time.Second) {
					t.Fatalf("round %d: predecessor alive 5 s after the last client, want it gone; %+v", round+1, b.Status().Generations)
				}
				u := result()
				if c := u.Predecessor.Connections; u.Code != 0 || c.Grace+c.Cut+c.Timeout != 0 {
					t.Errorf("drain: got exit code %d, %+v, want nothing cut, timed out or closed after the grace", u.Code, u.Predecessor)
				}
				await.Until(t, 5*time.Second, "the account of who stayed", func() bool { return connectionsOf(b) == len(stayed) })
				each(t, stayed, "who stayed", func(k *talk, _ *rand.Rand) error { return k.exchange(whole) })
				for _, k := range stayed {
					k.Close()
				}
				await.Until(t, 5*time.Second, "an empty account", func() bool { return connectionsOf(b) == 0 })
			}
		})
	}
}

// resetIt closes a connection with a reset where the network has such a thing.
func resetIt(k *talk) {
	if tc, ok := k.Conn.Conn.(*net.TCPConn); ok {
		tc.SetLinger(0)
	}
	k.Close()
}

// Clients that never stop sending, so that there is no moment at which the service holds nothing of the next
// request: they are told after the grace, and have lost nothing of what came up to the answer that told them.
func TestNeverASafeMoment(t *testing.T) {
	const grace = 400 * time.Millisecond
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror), service.Args("-idle-grace", grace.String()))
			all := talks(t, b, 8)
			var begun, streaming sync.WaitGroup
			begun.Add(len(all))
			type end struct {
				answered int
				at       time.Time
				err      error
			}
			ends := make([]end, len(all))
			for i, k := range all {
				uri := func(n int) string { return fmt.Sprintf("/slow/%s/%d", k.name, n) }
				// A backlog of so many requests is more than the service answers before the next are there,
				// and less than what it reads away after it has closed.
				window := make(chan struct{}, 800)
				told := make(chan struct{})
				streaming.Go(func() {
					for n := 1; ; n++ {
						select {
						case window <- struct{}{}:
						case <-told:
							return
						}
						k.SetWriteDeadline(time.Now().Add(20 * time.Second))
						if _, err := io.WriteString(k, get(uri(n)).raw); err != nil {
							return // which is for the reader to judge
						}
					}
				})
				streaming.Go(func() {
					defer close(told)
					e := &ends[i]
					for n := 1; e.err == nil && (n == 1 || !k.resp.Close); n++ {
						if e.err = k.hearOne(get(uri(n))); e.err == nil {
							e.answered = n
						}
						if n == 20 {
							begun.Done()
						}
						<-window
					}
					e.at = time.Now()
					if e.answered < 20 {
						begun.Done()
					}
				})
			}
			begun.Wait()
			predecessor := b.Follow(b.PID())
			result := handoff(t, b)
			began := time.Now()
			streaming.Wait()
			for i, e := range ends {
				switch took := e.at.Sub(began); {
				case e.err != nil:
					t.Errorf("connection %s: after %d answers: %v", all[i].name, e.answered, e.err)
				case took < grace-50*time.Millisecond || took > 20*time.Second: // what it has sent ahead is answered first
					t.Errorf("connection %s: told to close %v after the handoff, after %d answers, want the grace of %v and a moment", all[i].name, took, e.answered, grace)
				}
				if e := all[i].AwaitClose(5 * time.Second); e == http1.StillOn || e == http1.MoreData {
					t.Errorf("connection %s: after the answer that told: %s, want its end", all[i].name, e)
				}
			}
			if !predecessor.Within(5 * time.Second) {
				t.Error("predecessor: alive 5 s after its last answer")
			}
			u := result()
			if c := u.Predecessor.Connections; u.Code != 0 || c.Announced != len(all) || c.Cut+c.Grace+c.Error+c.Timeout != 0 {
				t.Errorf("drain: got exit code %d, %+v, want %d told to close", u.Code, u.Predecessor, len(all))
			}
		})
	}
}

// An empty line after the body of a POST, which some old clients send, is passed over even if it comes to another
// generation than the POST (RFC 9112, section 2.2).
func TestEmptyLineAfterTheMove(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			all := talks(t, b, 10)
			each(t, all, "POST", func(k *talk, _ *rand.Rand) error { return k.exchange(post("/post", "a body")) })
			around(t, b, all, "empty line and GET", func(k *talk, random *rand.Rand) error {
				time.Sleep(50 * time.Millisecond) // after the move
				if err := k.say("\r\n"); err != nil {
					return err
				}
				atRandom(random)
				return k.exchange(get("/get"))
			})
			checkAllMoved(t, b, all)
		})
	}
}

// The end of a connection that has moved is the successor's to make: the predecessor, which lives on, holds nothing of it.
func TestEndOfAMovedConnection(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			m := &mirror{gate: make(chan struct{})}
			b := moving(t, network, m)
			open := sync.OnceFunc(func() { close(m.gate) })
			t.Cleanup(open)
			predecessor := b.Follow(b.PID())
			busy := talks(t, b, 1)
			all := talks(t, b, 20)
			each(t, all[:10], "first request", func(k *talk, _ *rand.Rand) error { return k.exchange(get("/first")) })
			each(t, busy, "request that is held", func(k *talk, _ *rand.Rand) error { return k.say(get("/gate").raw) })
			await.Until(t, 10*time.Second, "the request in the backend", func() bool { return m.entered.Load() == 1 })
			result := handoff(t, b)
			await.Until(t, 10*time.Second, "the move", func() bool {
				return b.Metric("baton_connections_migrated_total", "direction", "out") == float64(len(all))
			})
			last := question{"GET", string(http1.Request("GET", "/last", nil, "Connection: close")), mirrored("GET", "/last", "")}
			each(t, all, "last request", func(k *talk, _ *rand.Rand) error {
				if err := k.say(last.raw); err != nil {
					return err
				}
				if err := k.hearOne(last); err != nil {
					return err
				}
				return k.expectEnd()
			})
			if !predecessor.Alive() {
				t.Error("predecessor: gone under its request")
			}
			open()
			each(t, busy, "request that was held", func(k *talk, _ *rand.Rand) error { return k.hear(get("/gate")) })
			checkNoneClosed(t, result())
			checkAllMoved(t, b, busy)
		})
	}
}

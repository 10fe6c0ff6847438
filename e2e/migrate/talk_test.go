package migrate

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
)

// talk is a connection on which everything has to be answered, in order.
type talk struct {
	*http1.Conn
	name string
	resp http1.Response
}

func (k *talk) say(raw string) error {
	k.SetWriteDeadline(time.Now().Add(await.Hang))
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
	k.SetReadDeadline(time.Now().Add(await.Hang))
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
	if e := k.AwaitClose(await.Hang); e != http1.Fin {
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
	if !await.Holds(await.Hang, func() bool { return connectionsOf(b) >= before+n }) {
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
	for deadline := time.Now().Add(await.Hang); ; time.Sleep(100 * time.Microsecond) {
		if now := b.ReadPID(); now != 0 && now != pid {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no successor within ", await.Hang)
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
	if !predecessor.Within(await.Hang) {
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
	await.Until(t, "lines of the access log", func() bool {
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

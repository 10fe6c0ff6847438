package clients

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// stage is a service with clients, all of them on connections of their own.
type stage struct {
	*service.Baton
	t        *testing.T
	over     service.Over
	certFile string
	clients  []*client
	givenUp  atomic.Int64 // connections that a client has closed by itself, to make another
}

func newStage(t *testing.T) *stage {
	t.Helper()
	certFile, keyFile := certificate.Certificate(t)
	option, _ := service.EveryKindWith(t, certFile, keyFile)
	return &stage{Baton: service.Start(t, option, service.Args("-idle-grace", "2m", "-drain-timeout", "5m")), t: t, certFile: certFile,
		over: service.Over{Config: certificate.Trusting(t, []string{certFile})}}
}

// pause is for how long clients rest after a request, or they take the machine from the upgrades.
const pause = 5 * time.Millisecond

// client is one that makes requests, one after the other, until it is stopped.
type client struct {
	name     string
	pid      int // 0: it is in this process
	answered atomic.Int64
	end      func() // and wait

	mu       sync.Mutex
	problems []string
}

func (c *client) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.problems) < 5 {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// add has a client take part.
func (s *stage) add(c *client) {
	c.end = sync.OnceFunc(c.end)
	s.t.Cleanup(c.end)
	s.clients = append(s.clients, c)
}

// run starts a program that writes a line "ok …" for each request that was answered as it should be. It ends when its
// input does, or is interrupted if it has none. What else it writes to its standard output or error is a problem.
func (s *stage) run(name string, script bool, argv ...string) {
	s.t.Helper()
	c := &client{name: name}
	cmd := exec.Command(argv[0], argv[1:]...)
	var input io.Closer
	if script {
		pipe, err := cmd.StdinPipe()
		if err != nil {
			s.t.Fatal(err)
		}
		input = pipe
	}
	output, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w.Close()
	c.pid = cmd.Process.Pid
	var ending atomic.Bool
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "ok ") && !strings.HasPrefix(line, "ok 000"): // curl's status of no answer
				c.answered.Add(1)
			case !ending.Load():
				c.problem("%s", line)
			}
		}
	}()
	c.end = func() {
		ending.Store(true)
		if input != nil {
			input.Close()
		} else {
			cmd.Process.Signal(os.Interrupt)
		}
		<-read
		if err := cmd.Wait(); err != nil && input != nil {
			c.problem("%v", err)
		}
	}
	s.add(c)
}

// throughUpgrades checks that each client keeps its connections, so many of them in all, and is answered. One that has
// given up its connection has another.
func (s *stage) throughUpgrades(wantConnections int) {
	t := s.t
	t.Helper()
	upgrades := *tier.Soak
	if upgrades == 0 {
		upgrades = tier.Times(t, "upgrades", 1, 3, 5)
	}
	s.awaitProgress(3)
	began := make(map[*client][]string)
	for _, c := range s.clients {
		if c.pid != 0 {
			began[c] = process.Connections(t, c.pid)
		}
	}
	deploy := s.Releases("v1", "v2")
	for i := range upgrades {
		deploy([]string{"v2", "v1"}[i%2])
		predecessor := s.Follow(s.PID())
		u := s.Upgrade()
		c, givenUp := u.Predecessor.Connections, int(s.givenUp.Load())
		if c.Client <= givenUp {
			c.Client = 0
		}
		if u.Predecessor.Moved < wantConnections-givenUp || c != (service.Connections{}) {
			t.Errorf("upgrade %d: %d connections migrated, closed %+v, want all %d migrated", i+1, u.Predecessor.Moved, c, wantConnections)
		}
		if !predecessor.Within(await.Hang) {
			t.Fatalf("upgrade %d: predecessor alive %v after its drain", i+1, await.Hang)
		}
		s.awaitProgress(3)
	}
	for _, c := range s.clients {
		if c.pid == 0 {
			continue
		}
		if got := process.Connections(t, c.pid); !slices.Equal(got, began[c]) || len(got) == 0 {
			t.Errorf("%s: got connections from %v, want those of the beginning, %v", c.name, got, began[c])
		}
	}
	got := int(s.Metric("baton_connections_accepted_total"))
	if most := wantConnections + int(s.givenUp.Load()); got < wantConnections || got > most {
		t.Errorf("connections accepted: got %d, want the %d of the beginning, and up to %d with those that clients gave up", got, wantConnections, most)
	}
	for _, c := range s.clients {
		c.end()
		for _, problem := range c.problems {
			t.Errorf("%s: %s", c.name, problem)
		}
		t.Logf("%s: %d requests through %d upgrades", c.name, c.answered.Load(), upgrades)
	}
}

// awaitProgress waits until each client has been answered so many times more.
func (s *stage) awaitProgress(n int64) {
	s.t.Helper()
	before := make([]int64, len(s.clients))
	for i, c := range s.clients {
		before[i] = c.answered.Load()
	}
	for i, c := range s.clients {
		if !await.Holds(await.Hang, func() bool { return c.answered.Load() >= before[i]+n }) {
			c.mu.Lock()
			defer c.mu.Unlock()
			s.t.Fatalf("%s: %d requests answered, then none; %q", c.name, c.answered.Load(), c.problems)
		}
	}
}

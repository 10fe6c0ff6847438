package upgrade

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"example.com/baton/upgrade/internal/control"
	"example.com/baton/upgrade/internal/flip"
	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
	"example.com/baton/upgrade/internal/pidfile"
	"example.com/baton/upgrade/internal/process"
)

// Generation is the running process as one in a line of generations.
//
// Its fields are grouped by when and by whom they are set. The first groups are set by
// New, Listen and the other methods that precede Run. Run's goroutine alone changes some of
// them afterwards, which no other goroutine reads.
//
// Locks are taken in this order: that of [link.Link.SendOrdered], then mu. That of the
// adoption and those inside of a link are taken last. While one is held no code of the
// service, of an observer, of the listener store or of the logger runs.
type Generation struct {
	opts    Options
	log     *slog.Logger
	flip    *flip.Process
	control *control.Server
	pidFile *pidfile.File // nil: none
	number  int
	started time.Time

	hooks     []hook
	observers []Observer

	offered         []claim                 // listeners of the predecessor or the store that are not claimed yet
	claims          map[net.Listener]claim  // this generation's
	controlListener net.Listener            // one of them; nil: none
	listeners       map[string]net.Listener // those of the service by the address bound, from Run on

	secret      []byte      // of the predecessor
	predecessor *link.Hello // nil: the first generation, or one whose predecessor is unknown
	link        *link.Link  // to that predecessor, or nil

	events            chan link.Event // what comes over the links, to be decided on by Run
	heartbeat         chan struct{}   // received from as long as Run does not hang
	done              chan struct{}   // closed when Run ends
	predecessorDrains chan struct{}   // closed then: the predecessor answers on the control socket no more

	adoption adoption

	mu         sync.Mutex // guards what follows
	state      State
	isStopping bool    // a stop was requested
	service    Service // nil before Run
	addresses  []string
	counted    Counts // by the service, the most that was ever reported
	neighbors
	upgrades []Upgrade
	trials
	results map[Result]uint64
}

// neighbors are the generations that are linked to this one, and what is known of others.
type neighbors struct {
	// predecessors are those that live and are linked to this generation, oldest
	// first. Of several, all but the last were linked to that one before.
	predecessors  []*member
	lastID        lifecycle.ID // of a predecessor
	successorLink *link.Link   // or nil
	successor     *member      // since it has sent its hello
	past          Counts       // of generations before this one that are gone
	future        Counts       // of all others, as the successor reports it
}

// ErrControl is the error of a control socket that cannot be claimed.
var ErrControl = errors.New("the control socket cannot be claimed")

type controlError struct{ error }

func (controlError) Is(target error) bool { return target == ErrControl }
func (e controlError) Unwrap() error      { return e.error }

// New makes the running process a generation. A program calls it once, before
// it starts goroutines, because it changes the process as the package's
// documentation describes. It fails if the control socket or the PID file belongs
// to another running service; an error of the control socket wraps [ErrControl]. A program
// whose New, Listen or Run fails must exit with a status other than 0 and should print the
// error: if it was to be a successor, its predecessor serves on and reports the error.
func New(opts Options) (*Generation, error) {
	opts = opts.withDefaults()
	proc, err := flip.New()
	if err != nil {
		return nil, err
	}
	g := &Generation{
		opts:    opts,
		log:     opts.Logger,
		flip:    proc,
		number:  1,
		started: time.Now(),

		claims: make(map[net.Listener]claim),

		events:            make(chan link.Event),
		heartbeat:         make(chan struct{}),
		done:              make(chan struct{}),
		predecessorDrains: make(chan struct{}),

		results: map[Result]uint64{Succeeded: 0, Failed: 0, Refused: 0},
	}
	if err := g.meetPredecessor(); err != nil {
		return nil, fmt.Errorf("begin a generation: %w", err)
	}
	if err := g.takeInherited(); err != nil {
		return nil, fmt.Errorf("begin a generation: %w", err)
	}
	if err := g.takeStored(); err != nil {
		return nil, fmt.Errorf("begin a generation: %w", err)
	}
	g.log = g.log.With("generation", g.number)
	if err := g.claimNames(); err != nil {
		g.giveUp()
		return nil, err
	}
	if !proc.HasPredecessor() && endsUnit() {
		g.log.Warn("systemd will stop this service at its first upgrade: set Type=notify and NotifyAccess=all in the unit, and notify systemd of each generation as package systemd does")
	}
	return g, nil
}

// Names of files that a predecessor hands over beside the sockets.
const (
	fileLink    = "link"
	filePIDLock = "pid-lock"
)

// helloTimeout bounds the wait for the predecessor's hello, which was sent before this
// process was started.
const helloTimeout = 5 * time.Second

// meetPredecessor opens the link to the predecessor and introduces this generation.
func (g *Generation) meetPredecessor() error {
	if !g.flip.HasPredecessor() {
		return nil
	}
	g.number = 2
	f, err := g.flip.File(fileLink)
	if err != nil {
		return err
	}
	if f == nil {
		g.log.Warn("predecessor has no link; its drain cannot be observed")
		return nil
	}
	if err := g.flip.OnlyCopy(f); err != nil {
		g.log.Warn("link has a second copy; its end may be detected late", "error", err)
	}
	if g.link, err = link.Open(f); err != nil {
		return err
	}
	m, err := g.link.Receive(helloTimeout)
	m.Close()
	if err == nil && m.Hello == nil {
		err = fmt.Errorf("got message %q", m.Type)
	}
	if err == nil {
		err = decode(m.Hello.Upgrades, &g.upgrades)
	}
	if err != nil {
		return fmt.Errorf("receive the predecessor's hello: %w", err)
	}
	h := m.Hello
	g.secret, h.Secret = h.Secret, nil
	g.predecessor, g.number = h, h.Generation+1
	for _, c := range h.Claims {
		g.offered = append(g.offered, claim{Claim: c})
	}
	g.add(&member{Hello: *h, link: g.link, process: process.Open(h.PID), state: Upgrading, counts: h.Counts})
	if err := g.greet(g.link); err != nil { // it died; the sockets are here, so go on
		g.log.Warn("predecessor does not read from the link", "error", err)
	}
	g.link.Follow(g.events, g.done, g.exchange(g.link, true))
	return nil
}

// greet introduces this generation to a neighbor.
func (g *Generation) greet(l *link.Link) error {
	own := g.introduction()
	return l.Send(link.Message{Type: link.TypeHello, Hello: &own})
}

// introduction returns the beginning of this generation's hello.
func (g *Generation) introduction() link.Hello {
	return link.Hello{Protocol: link.Version(), PID: os.Getpid(), Version: g.opts.Version, Started: g.started, Generation: g.number}
}

// claimNames claims what a second server must not share.
func (g *Generation) claimNames() error {
	if path := g.opts.Control; path != "" {
		ln, err := g.Listen("unix:" + path)
		if err != nil {
			return controlError{err}
		}
		if g.claims[ln].fresh {
			if err := os.Chmod(path, 0o600); err != nil {
				return fmt.Errorf("claim control socket: %w", err)
			}
		}
		g.controlListener = ln
	}
	g.control = control.NewServer(g.controlListener, statusHandler{g}, g.log)
	if path := g.opts.PIDFile; path != "" {
		return g.claimPIDFile(path)
	}
	return nil
}

func (g *Generation) claimPIDFile(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("claim PID file: %w", err)
	}
	var passed *os.File
	if p := g.predecessor; p != nil && p.PIDFile == abs { // that of another path is closed when this generation is ready
		if passed, err = g.flip.File(filePIDLock); err != nil {
			return fmt.Errorf("claim PID file: %w", err)
		}
	}
	if g.pidFile, err = pidfile.Claim(abs, passed); err != nil {
		return err
	}
	if passed == nil {
		if err := g.flip.AddFile(filePIDLock, g.pidFile.Lock()); err != nil {
			return fmt.Errorf("claim PID file: %w", err)
		}
	}
	return nil
}

// Secret returns the secret of the predecessor's [SecretKeeper]; nil without one.
func (g *Generation) Secret() []byte { return g.secret }

// Number is the generation's place in the line, from 1.
func (g *Generation) Number() int { return g.number }

// Results returns how many upgrades ended in which way, as far as this
// generation is the one that counts them: its own beginning, if it is a
// successor, and attempts of its own that failed or were refused.
func (g *Generation) Results() map[Result]uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.results)
}

// Predecessors returns how many predecessors still live.
func (g *Generation) Predecessors() int { return len(g.living()) }

// PredecessorDrain returns how long the drain and the hooks of any predecessor that
// lives may take at most, 0 without one.
func (g *Generation) PredecessorDrain() (longest time.Duration) {
	for _, p := range g.living() {
		longest = max(longest, p.Drain)
	}
	return longest
}

// TakesRequests reports whether the service takes requests, as a readiness probe
// wants to know: from readiness to the first moment of a stop. A generation that
// drains because its successor serves still takes requests on the connections that it
// has.
func (g *Generation) TakesRequests() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state != Starting && !g.isStopping
}

package upgrade

// This file holds a generation: what it is made of, and what it inherits.

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"example.com/baton/upgrade/logging"
	"github.com/cloudflare/tableflip"
)

// Options says how a generation lives. The zero value is good for a program
// that is upgraded with SIGHUP.
type Options struct {
	// Version is what this release is called in reports. Empty means "unknown".
	Version string
	// Control is the path of the control socket. Empty means none.
	Control string
	// PIDFile always names the generation that serves. Empty means none.
	PIDFile string
	// UpgradeTimeout is how long a successor may take to be ready before it is
	// killed. 0 means one minute.
	UpgradeTimeout time.Duration
	// DrainTimeout is how long a drain may take before what remains is cut.
	// 0 means 30 seconds.
	DrainTimeout time.Duration
	// HookTimeout is how long the hooks of [Generation.OnExit] and
	// [Generation.OnStop] may take together. 0 means 10 seconds.
	HookTimeout time.Duration
	// MaxDraining is how many predecessors may still drain when an upgrade begins;
	// with more of them it waits. 0 means 4, a negative value none.
	MaxDraining int
	// ShutdownDelay is how long a stop goes on serving after State has become
	// Draining, so that load balancers notice.
	ShutdownDelay time.Duration
	// Store holds the listeners open when the process dies. Nil means none.
	Store ListenerStore
	// Logger gets a line for each transition. Nil means slog.Default().
	Logger *slog.Logger
	// Output is where Logger writes, and where what a successor prints at its start
	// goes. Nil means a new one for standard error, to which the lines of package
	// log go as well then, and with them those of slog.Default(), unless the program
	// has sent them elsewhere.
	Output *logging.Output
}

// Generation is the running process as one in a line of generations.
type Generation struct {
	opts    Options
	log     *slog.Logger
	tf      *tableflip.Upgrader
	started time.Time
	stderr  *stderr
	control *control
	pidFile *pidFile // nil: none
	hooks   []hook

	observers []Observer

	offered []claim                // the predecessor's or the store's listeners that are not claimed yet
	claims  map[net.Listener]claim // this generation's

	secret      []byte     // of the predecessor
	predecessor *hello     // nil: the first generation, or one whose predecessor is unknown
	link        *link      // to that predecessor, or nil
	pipe        uint64     // inode of tableflip's pipe, whose end is that of the predecessor
	heard       chan heard // what comes over the links, to be decided on by Run

	number int
	done   chan struct{} // closed when Run ends
	pulse  chan struct{} // taken from as long as Run does not hang

	relieved chan struct{} // closed when the predecessor drains: it answers on the control socket no more

	mu         sync.Mutex // guards what Status reads
	state      State
	isStopping bool    // a stop was asked for
	service    Service // nil before Run
	addresses  []string
	// predecessors are those that live and are linked to this generation, oldest
	// first. Of several, all but the last were linked to that one before.
	predecessors []*member
	ahead        *link   // to the successor, or nil
	after        *member // the successor since it said hello
	upgrades     []Upgrade
	results      map[Result]uint64
	past         Counts // of generations before this one that are gone
	future       Counts // of all others, as the successor tells it

	adoption  sync.Mutex              // held while connections are adopted
	adopter   Adopter                 // nil unless connections may be
	listeners map[string]net.Listener // those of the service by the address bound, from Run on
}

// tableflipVariable is how tableflip tells a successor that it is one.
const tableflipVariable = "TABLEFLIP_HAS_PARENT_7DIU3"

// Signals returns a channel with the signals that [Generation.Run] understands:
// SIGHUP, SIGTERM and SIGINT. A program calls it first of all, since a signal
// that comes before ends the process. A SIGTERM or SIGINT within a second of one
// before is the same: some send it to the process and to its group.
func Signals() <-chan os.Signal {
	// A channel that is full loses signals: one kind must not crowd out another.
	triggers, stops := make(chan os.Signal, 1), make(chan os.Signal, 2)
	signal.Notify(triggers, syscall.SIGHUP)
	signal.Notify(stops, syscall.SIGTERM, syscall.SIGINT)
	signals := make(chan os.Signal)
	go deliver(signals, triggers, stops) // for the rest of the process
	return signals
}

// sameIntent is how long after a signal another one means the same.
const sameIntent = time.Second

// deliver passes signals on, stops before a trigger. It takes each at once, so that
// two which come together are seen as such, however busy the receiver is. It
// returns when stops is closed.
func deliver(signals chan<- os.Signal, triggers, stops <-chan os.Signal) {
	var (
		pending []os.Signal // stops
		trigger os.Signal   // nil: none
		last    time.Time   // when the last stop came that counts
	)
	for {
		var to chan<- os.Signal
		next := trigger
		if len(pending) > 0 {
			next = pending[0]
		}
		if next != nil {
			to = signals
		}
		select {
		case s, ok := <-stops:
			if !ok {
				return
			}
			if now := time.Now(); last.IsZero() || now.Sub(last) >= sameIntent {
				pending, last = append(pending, s), now
			}
		case trigger = <-triggers:
		case to <- next:
			if len(pending) > 0 {
				pending = pending[1:]
			} else {
				trigger = nil
			}
		}
	}
}

// ErrControl: the control socket cannot be claimed.
var ErrControl = errors.New("the control socket cannot be claimed")

// New makes the running process a generation. A program calls it once, before
// it starts goroutines, because it changes the process as the package's
// documentation tells. It fails if the control socket or the PID file belongs
// to another running service; an error of the control socket wraps [ErrControl]. A program whose New, Listen or Run fails must
// exit with a status other than 0 and should print the error: if it was to be
// a successor, its predecessor serves on and passes that on.
func New(opts Options) (*Generation, error) {
	if opts.Version == "" {
		opts.Version = "unknown"
	}
	if opts.UpgradeTimeout <= 0 {
		opts.UpgradeTimeout = tableflip.DefaultUpgradeTimeout
	}
	if opts.DrainTimeout <= 0 {
		opts.DrainTimeout = 30 * time.Second
	}
	if opts.HookTimeout <= 0 {
		opts.HookTimeout = hookTimeout
	}
	if opts.MaxDraining == 0 {
		opts.MaxDraining = 4
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Output == nil {
		opts.Output = logging.NewOutput(2)
		if log.Writer() == os.Stderr {
			log.SetOutput(opts.Output.Patient())
		}
	}
	if err := absoluteProgram(); err != nil {
		return nil, err
	}
	if tableflipDirectory == "" {
		tableflipDirectory = "/" // New must have one; each upgrade looks for itself
	}
	tf, err := tableflip.New(tableflip.Options{UpgradeTimeout: opts.UpgradeTimeout})
	if err != nil {
		return nil, fmt.Errorf("begin a generation: %w", err)
	}
	os.Unsetenv(tableflipVariable)
	g := &Generation{
		opts:    opts,
		log:     opts.Logger,
		tf:      tf,
		started: time.Now(),
		claims:  make(map[net.Listener]claim),
		number:  1,
		done:    make(chan struct{}),
		pulse:   make(chan struct{}),

		relieved: make(chan struct{}),

		heard:   make(chan heard),
		results: map[Result]uint64{Succeeded: 0, Failed: 0, Refused: 0},
	}
	if tf.HasParent() {
		syscall.CloseOnExec(3) // tableflip's pipes
		syscall.CloseOnExec(4)
		g.pipe = inodeOf(4)
	}
	if err := g.meetPredecessor(); err != nil {
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
	if !tf.HasParent() && endsUnit() {
		g.log.Warn("systemd will stop this service at its first upgrade: set Type=notify and NotifyAccess=all in the unit, and notify systemd of each generation as package systemd does")
	}
	return g, nil
}

// Names of files that a predecessor hands over beside the sockets.
const (
	fileLink    = "link"
	fileStderr  = "stderr"
	filePIDLock = "pid-lock"
)

// meetPredecessor takes what a predecessor hands over and greets it.
func (g *Generation) meetPredecessor() error {
	real, err := g.tf.File(fileStderr)
	if err != nil {
		return err
	}
	if g.stderr, err = newStderr(real); err != nil {
		return err
	}
	if real == nil {
		if err := g.tf.AddFile(fileStderr, g.stderr.real); err != nil {
			return err
		}
	}
	if !g.tf.HasParent() {
		return nil
	}
	g.number = 2
	f, err := g.tf.File(fileLink)
	if err != nil {
		return err
	}
	if f == nil {
		g.log.Warn("predecessor has no link; it cannot be followed while it drains")
		return nil
	}
	if g.link, err = openLink(f); err != nil {
		return err
	}
	// tableflip has a copy, by which the link would outlast its passing on.
	if err := g.link.onlyCopy(); err != nil {
		g.log.Warn("the link has a second copy, so that its end may be noticed late", "error", err)
	}
	// The greeting was written before this process was started.
	g.link.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	m, err := g.link.receive(new(receiveBuffer))
	m.close()
	if err == nil && m.Hello == nil {
		err = fmt.Errorf("got message %q", m.Type)
	}
	if err != nil {
		return fmt.Errorf("hear from the predecessor: %w", err)
	}
	g.link.conn.SetReadDeadline(time.Time{})
	h := m.Hello
	g.secret, h.Secret = h.Secret, nil
	g.predecessor, g.number, g.offered, g.upgrades = h, h.Generation+1, h.Claims, h.Upgrades
	g.predecessors = []*member{{hello: *h, link: g.link, process: openProcess(h.PID), state: Upgrading, counts: h.Counts}}
	if err := g.greet(g.link); err != nil { // it died; the sockets are here, so go on
		g.log.Warn("predecessor does not listen", "error", err)
	}
	g.link.follow(g.heard, g.done, g.exchange(g.link, true))
	return nil
}

// greet says who is here.
func (g *Generation) greet(l *link) error {
	own := g.introduction()
	return l.send(message{Type: msgHello, Hello: &own})
}

// introduction is what this generation says of itself first.
func (g *Generation) introduction() hello {
	return hello{Protocol: linkProtocol(), PID: os.Getpid(), Version: g.opts.Version, Started: g.started, Generation: g.number}
}

// claimNames claims what a second server must not share.
func (g *Generation) claimNames() error {
	var ln net.Listener
	if path := g.opts.Control; path != "" {
		var err error
		if ln, err = g.Listen("unix:" + path); err != nil {
			return marked{err, ErrControl}
		}
		if g.claims[ln].fresh {
			if err := os.Chmod(path, 0o600); err != nil {
				return fmt.Errorf("claim control socket: %w", err)
			}
		}
	}
	g.control = newControl(ln, g.Status, g.log)

	if path := g.opts.PIDFile; path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return fmt.Errorf("claim PID file: %w", err)
		}
		var passed *os.File
		if p := g.predecessor; p != nil && p.PIDFile == abs { // one that is not, is closed when this generation is ready
			if passed, err = g.tf.File(filePIDLock); err != nil {
				return fmt.Errorf("claim PID file: %w", err)
			}
		}
		if g.pidFile, err = claimPIDFile(abs, passed); err != nil {
			return err
		}
		if passed == nil {
			if err := g.tf.AddFile(filePIDLock, g.pidFile.lock); err != nil {
				return fmt.Errorf("claim PID file: %w", err)
			}
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

// TakesRequests tells whether the service takes requests, as a readiness probe
// wants to know: from readiness to the first moment of a stop. A generation that
// drains because its successor serves says yes on the connections that it still
// has.
func (g *Generation) TakesRequests() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state != Starting && !g.isStopping
}

package systemd

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/baton/upgrade"
)

// Generation is what a [Notifier] asks of a generation: [upgrade.Generation] is one.
type Generation interface {
	Status() upgrade.Status
	Alive(context.Context) error
	TakesRequests() bool
	PredecessorDrain() time.Duration
	SuccessorReturn() time.Duration
}

// NotifierOptions configure a [Notifier]. Generation and Service must be set.
type NotifierOptions struct {
	Generation Generation
	// Service is checked for the watchdog as well. A service that fails is killed,
	// and loses the requests that it has. So its Check should ask for what must work
	// whatever else is slow, as that of [example.com/baton/server.Server] does, and
	// for nothing that depends on a database or another service.
	Service interface{ Check(context.Context) error }
	// StopTime is how long a stop may take at most, but for predecessors that drain, and for a
	// successor on trial.
	// 0 means one minute.
	StopTime time.Duration
	// Logger gets what could not be sent. Nil means slog.Default().
	Logger *slog.Logger
}

// Notifier notifies systemd of the life of a generation: that it is ready, upgrades or
// stops; once a second, if that has changed, of its status; and if the unit has a
// watchdog, that the generation and its service answer. It is the
// [upgrade.Observer] for [upgrade.Generation.Observe].
//
// It falls silent when a successor takes over, which has a Notifier of its own.
type Notifier struct {
	upgrade.NopObserver
	opts    NotifierOptions
	manager *Manager

	upgrading atomic.Bool // a successor may take over at any moment

	serving context.Context // ends when a successor takes over, and with Close
	end     context.CancelFunc
	running sync.WaitGroup // the heartbeat, and a message that is sent again
}

// NewNotifier returns the notifier of a generation. It does nothing before its methods
// are called, and must be closed.
func (m *Manager) NewNotifier(opts NotifierOptions) *Notifier {
	if opts.StopTime <= 0 {
		opts.StopTime = time.Minute
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	n := &Notifier{opts: opts, manager: m}
	n.serving, n.end = context.WithCancel(context.Background())
	return n
}

// StateChanged notifies systemd of a state, and from readiness on of status and life.
func (n *Notifier) StateChanged(from, to upgrade.State) {
	n.upgrading.Store(to == upgrade.Upgrading)
	switch to {
	case upgrade.Serving:
		n.ready()
	case upgrade.Upgrading:
		n.warn(n.manager.sendReloading())
	case upgrade.Draining:
		if n.opts.Generation.TakesRequests() { // in the successor, which notifies from now on
			n.end()
			return
		}
		g := n.opts.Generation
		n.warn(n.manager.sendStopping(n.opts.StopTime + g.PredecessorDrain() + g.SuccessorReturn()))
	default:
		return
	}
	n.warn(n.manager.sendStatus(n.status()))
	if from < upgrade.Serving {
		n.running.Go(n.heartbeat)
	}
}

// ready notifies systemd that this process is the main one, which it must learn: or the
// predecessor's end would be taken for that of the service.
func (n *Notifier) ready() {
	err := n.manager.sendReady()
	n.warn(err)
	if errors.Is(err, syscall.EAGAIN) {
		n.running.Go(func() {
			for n.serving.Err() == nil && errors.Is(err, syscall.EAGAIN) {
				err = n.manager.sendReady()
			}
		})
	}
}

// Orphaned notifies systemd of a successor that died after it had taken over, in whose place no
// other process serves. It did not notice, because the successor was not its child yet.
func (n *Notifier) Orphaned() { n.warn(n.manager.sendFailed()) }

// Close returns when this process may exit: when systemd has read all that was sent, by
// the successor too, or after five seconds.
func (n *Notifier) Close() {
	if n.serving.Err() != nil { // the successor's messages are the last
		n.running.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	n.warn(n.manager.barrier(ctx))
	n.end()
	n.running.Wait()
}

func (n *Notifier) warn(err error) {
	if err != nil {
		n.opts.Logger.Warn("service manager cannot be notified", "error", err)
	}
}

func (n *Notifier) status() string { return n.opts.Generation.Status().String() }

// statusInterval is how often the status is brought up to date.
const statusInterval = time.Second

// heartbeat notifies systemd of the status whenever it has changed and, three times in
// the time of a watchdog, that the generation is alive.
func (n *Notifier) heartbeat() {
	m := n.manager
	if m.socket == "" {
		return
	}
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	var watchdog <-chan time.Time // nil without one
	if m.watchdog > 0 {
		ticker := time.NewTicker(m.watchdog / 3)
		defer ticker.Stop()
		watchdog = ticker.C
		n.feedWatchdog()
	}
	last := ""
	for {
		// A successor that commits sends a status of its own, before this process hears of
		// it. So there is none but that of StateChanged while one is started, up to its trial: when
		// that is over this process knows it.
		status := n.opts.Generation.Status()
		isQuiet := n.upgrading.Load() && (status.Trial == nil || !status.Trial.Running())
		if line := status.String(); line != last && !isQuiet && n.serving.Err() == nil {
			last = line
			m.sendStatus(line) // if it is lost, the next one may arrive
		}
		select {
		case <-n.serving.Done():
			return
		case <-tick.C:
		case <-watchdog:
			n.feedWatchdog()
		}
	}
}

// feedWatchdog notifies the watchdog if the generation is alive.
func (n *Notifier) feedWatchdog() {
	ctx, cancel := context.WithTimeout(n.serving, n.manager.watchdog/3)
	defer cancel()
	err := n.alive(ctx)
	if err == nil && n.serving.Err() == nil {
		err = n.manager.sendAlive()
	}
	if err != nil && n.serving.Err() == nil {
		n.opts.Logger.Error("systemd's watchdog cannot be notified", "error", err)
	}
}

func (n *Notifier) alive(ctx context.Context) error {
	if err := n.opts.Generation.Alive(ctx); err != nil {
		return err
	}
	if !n.opts.Generation.TakesRequests() { // the service may be closed
		return nil
	}
	return n.opts.Service.Check(ctx)
}

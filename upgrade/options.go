package upgrade

import (
	"cmp"
	"log"
	"log/slog"
	"os"
	"time"

	"example.com/baton/upgrade/internal/flip"
	"example.com/baton/upgrade/logging"
)

// Options are the settings of a generation, a field for each. The zero value suits a program
// that is upgraded with SIGHUP.
type Options struct {
	// Version is what this release is called in reports. Empty means "unknown".
	Version string
	// Notice is what a person should know of this release, in one clause, shown in the status.
	// Empty means nothing.
	Notice string
	// Control is the path of the control socket. Empty means none.
	Control string
	// PIDFile always names the generation that serves. Empty means none.
	PIDFile string
	// UpgradeTimeout is how long a successor may take to be ready before it is
	// killed. 0 means one minute.
	UpgradeTimeout time.Duration
	// DrainTimeout is how long a drain may take before what remains is closed forcibly.
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
	// Trial is how a successor is tried. The zero value: not at all.
	Trial Trial
	// KeepCount reports whether a counter of [Counts] goes on when the generation is gone that has
	// counted. It is for counters whose names come and go with what the service is configured for,
	// of which all generations together would have more than any one. Nil: all go on.
	KeepCount func(name string) bool
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

// withDefaults returns the options with a value in place of each zero value.
func (o Options) withDefaults() Options {
	o.Version = cmp.Or(o.Version, "unknown")
	o.UpgradeTimeout = cmp.Or(max(o.UpgradeTimeout, 0), flip.DefaultUpgradeTimeout)
	o.DrainTimeout = cmp.Or(max(o.DrainTimeout, 0), 30*time.Second)
	o.HookTimeout = cmp.Or(max(o.HookTimeout, 0), 10*time.Second)
	o.Trial = o.Trial.withDefaults()
	o.MaxDraining = cmp.Or(o.MaxDraining, 4)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Output == nil {
		o.Output = logging.NewOutput(2)
		if log.Writer() == os.Stderr {
			log.SetOutput(o.Output.Patient())
		}
	}
	return o
}

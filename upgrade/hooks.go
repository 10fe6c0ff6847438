package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"
)

type hook struct {
	name   string
	atStop bool // runs only if the service stops
	run    func(context.Context) error
}

// OnExit registers a function that runs at the end of this generation, after the
// drain and before [Generation.Run] returns: whether a successor has taken over,
// the service stops, or Run fails. It is for what each generation has to close or
// flush itself, a database for example. The successor is serving by then, so that
// both generations use it during a drain. Handlers that were aborted at the drain
// timeout may still be running.
//
// All hooks of OnExit and [Generation.OnStop] run one after the other, in reverse
// order of registration, each of them even if another fails or panics. They share
// [Options.HookTimeout]: the deadline of the context gives each hook an equal part of
// what is left, and after that deadline a hook is no longer waited for. Errors are
// joined and logged. [Ask] returns when the hooks of the predecessor have ended.
//
// A process that is killed, or exits by itself, runs no hooks. OnExit and OnStop are
// to be called before Run.
func (g *Generation) OnExit(name string, run func(context.Context) error) {
	g.hooks = append(g.hooks, hook{name, false, run})
}

// OnStop registers a function that runs when the whole service stops: in the
// generation that serves then, after its drain. It does not run when a successor
// takes over, so it is for what must be done once, such as to deregister the service
// from a registry. What a generation has to close is for [Generation.OnExit], which
// also describes in which order hooks run.
func (g *Generation) OnStop(name string, run func(context.Context) error) {
	g.hooks = append(g.hooks, hook{name, true, run})
}

// exitTime returns how long the hooks may take that run at the end of each generation.
func (g *Generation) exitTime() time.Duration {
	for _, h := range g.hooks {
		if !h.atStop {
			return g.opts.HookTimeout
		}
	}
	return 0
}

// runHooks runs all hooks, or only those that do not wait for a stop.
func (g *Generation) runHooks(atStop bool) {
	var hooks []hook
	for _, h := range g.hooks {
		if atStop || !h.atStop {
			hooks = append(hooks, h)
		}
	}
	var errs []error
	end := time.Now().Add(g.opts.HookTimeout)
	for left := len(hooks); left > 0; left-- {
		h := hooks[left-1]
		if err := h.runFor(time.Until(end) / time.Duration(left)); err != nil {
			errs = append(errs, fmt.Errorf("hook %s: %w", h.name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		g.log.Error("hooks failed", "error", err)
	}
}

// runFor runs the hook, and leaves it behind if it takes longer.
func (h hook) runFor(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := errors.New("it ended its goroutine")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
			ended <- err
		}()
		err = h.run(ctx)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select { // it may have ended because of the deadline
	case err := <-ended:
		return err
	case <-time.After(100 * time.Millisecond):
		return fmt.Errorf("not done after %s", limit.Round(time.Millisecond))
	}
}

package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"example.com/baton/handlers/proxy/internal/pool"
)

// Check connects to each backend of options once and, if there is a HealthPath, asks it. It reports
// those that do not answer before ctx ends, in the order of the rules.
func Check(ctx context.Context, options Options) []error {
	problems := make([]error, len(options.Rules))
	var asked sync.WaitGroup
	known := make(map[string]bool)
	for i, rule := range options.Rules {
		if name := rule.Name(); !known[name] {
			known[name] = true
			asked.Go(func() {
				if err := rule.check(ctx, options); err != nil {
					problems[i] = fmt.Errorf("backend %s does not answer: %w", name, err)
				}
			})
		}
	}
	asked.Wait()
	return slices.DeleteFunc(problems, func(err error) bool { return err == nil })
}

func (rule Rule) check(ctx context.Context, options Options) error {
	b := rule.backend(options.HeaderTimeout, slog.New(slog.DiscardHandler))
	defer b.Transport.KeepIdle(false)
	if err := b.Transport.Probe(ctx); err != nil || options.HealthPath == "" {
		return err
	}
	if err := pool.CheckHealth(ctx, b, options.HealthPath); err != nil {
		return fmt.Errorf("%s: %w", options.HealthPath, err)
	}
	return nil
}

package proxy

import (
	"cmp"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"example.com/baton/handlers/backends"
	"example.com/baton/handlers/proxy/internal/pool"
)

// Backend is what is known of a backend.
type Backend = backends.Backend

// Backends returns what is known of all backends, in the order of Options.Rules.
func (p *Proxy) Backends() []Backend {
	stats := p.pool.Stats()
	all := make([]Backend, len(stats))
	for i, s := range stats {
		all[i] = Backend{Name: p.names[i], Prefixes: slices.Clone(p.prefixes[i]), State: s.State.String(),
			InProgress: s.InProgress, Requests: s.Requests, Errors: s.Errors}
	}
	return all
}

// Waiting returns the number of requests that wait for a backend.
func (p *Proxy) Waiting() int { return p.pool.Waiting() }

// Report returns both. That of a nil Proxy has no backends.
func (p *Proxy) Report() backends.Report {
	if p == nil {
		return backends.Report{}
	}
	return backends.Report{Backends: p.Backends(), Waiting: p.Waiting()}
}

// Close ends health checks, and closes idle connections. Requests that wait are answered. It may
// be called while others are in progress, which go on, and of a nil Proxy.
func (p *Proxy) Close() {
	if p != nil {
		p.pool.Close()
	}
}

// addRules makes the pool and the routes, and returns the group of each of these.
func (p *Proxy) addRules() []*pool.Group {
	var backends []pool.Backend
	members := make(map[string][]int)
	for _, rule := range p.opts.Rules {
		name := rule.Name()
		i := slices.Index(p.names, name)
		if i < 0 {
			i = len(p.names)
			p.names, p.prefixes = append(p.names, name), append(p.prefixes, nil)
			backends = append(backends, rule.backend(p.opts.HeaderTimeout, p.opts.Logger))
		}
		p.prefixes[i] = append(p.prefixes[i], rule.Prefix)
		if len(members[rule.Prefix]) == 0 {
			p.routes = append(p.routes, route{Rule: rule})
		}
		members[rule.Prefix] = append(members[rule.Prefix], i)
	}
	slices.SortStableFunc(p.routes, func(a, b route) int { return cmp.Compare(len(b.Prefix), len(a.Prefix)) })
	p.pool = pool.New(pool.Options{Backends: backends, Wait: p.opts.Wait, HealthPath: p.opts.HealthPath, Logger: p.opts.Logger})
	var groups []*pool.Group
	for _, route := range p.routes {
		groups = append(groups, p.pool.Group(members[route.Prefix]...))
	}
	return groups
}

// backend returns the rule's backend. Its Transport must be closed.
func (rule Rule) backend(headerTimeout time.Duration, logger *slog.Logger) pool.Backend {
	scheme, host := rule.origin()
	return pool.Backend{Name: rule.Name(), URL: scheme + "://" + host, Transport: rule.newTransport(headerTimeout, logger)}
}

// balanced sends requests to a group of backends.
type balanced struct{ group *pool.Group }

func (b balanced) RoundTrip(r *http.Request) (response *http.Response, err error) {
	response, exchangeOf(r).lease, err = b.group.RoundTrip(r)
	return response, err
}

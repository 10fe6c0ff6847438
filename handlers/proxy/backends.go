package proxy

import (
	"cmp"
	"net/http"
	"slices"

	"example.com/baton/handlers/proxy/internal/pool"
)

// Backend is what is known of a backend.
type Backend struct {
	Name       string         // as in Rule.Name
	Prefixes   []string       // of the rules that lead to it
	State      string         // up, down, leaving or sick; only one that is up gets requests
	InProgress int            // requests, upgraded connections among them, but for those of a predecessor
	Requests   map[int]uint64 // that it has answered, by status code
	Errors     uint64         // connects and requests that failed, repeated ones as well
}

// Backends returns what is known of all backends, in the order of Options.Rules.
func (p *Proxy) Backends() []Backend {
	stats := p.pool.Stats()
	backends := make([]Backend, len(stats))
	for i, s := range stats {
		backends[i] = Backend{Name: p.names[i], Prefixes: slices.Clone(p.prefixes[i]), State: s.State.String(),
			InProgress: s.InProgress, Requests: s.Requests, Errors: s.Errors}
	}
	return backends
}

// Waiting returns the number of requests that wait for a backend.
func (p *Proxy) Waiting() int { return p.pool.Waiting() }

// Close ends health checks, and closes idle connections. Requests that wait are answered. It may
// be called while others are in progress, which go on.
func (p *Proxy) Close() { p.pool.Close() }

// addRules makes the pool, and returns the group of each of p.rules.
func (p *Proxy) addRules(options Options) []*pool.Group {
	var backends []pool.Backend
	members := make(map[string][]int)
	for _, rule := range options.Rules {
		name := rule.Name()
		i := slices.Index(p.names, name)
		if i < 0 {
			i = len(p.names)
			scheme, host := rule.origin()
			p.names, p.prefixes = append(p.names, name), append(p.prefixes, nil)
			backends = append(backends, pool.Backend{Name: name, URL: scheme + "://" + host, Transport: rule.newTransport(p.headerTimeout, p.logger)})
		}
		p.prefixes[i] = append(p.prefixes[i], rule.Prefix)
		if len(members[rule.Prefix]) == 0 {
			p.rules = append(p.rules, rule)
		}
		members[rule.Prefix] = append(members[rule.Prefix], i)
	}
	slices.SortStableFunc(p.rules, func(a, b Rule) int { return cmp.Compare(len(b.Prefix), len(a.Prefix)) })
	p.pool = pool.New(pool.Options{Backends: backends, Wait: options.Wait, HealthPath: options.HealthPath, Logger: p.logger})
	var groups []*pool.Group
	for _, rule := range p.rules {
		groups = append(groups, p.pool.Group(members[rule.Prefix]...))
	}
	return groups
}

// balanced sends requests to a group of backends.
type balanced struct{ group *pool.Group }

func (b balanced) RoundTrip(r *http.Request) (response *http.Response, err error) {
	response, exchangeOf(r).lease, err = b.group.RoundTrip(r)
	return response, err
}

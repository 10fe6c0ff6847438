package pool

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"example.com/baton/handlers/proxy/internal/transport"
)

const (
	healthPause   = 2 * time.Second // between the beginnings of two checks
	healthTimeout = 2 * time.Second
	maxHealthBody = 64 << 10 // bytes; beyond them the connection is not used again
)

// watch asks the health path of b until the pool is closed.
func (p *Pool) watch(b *backend) {
	next := time.NewTicker(healthPause)
	defer next.Stop()
	for p.ctx.Err() == nil {
		p.mu.Lock()
		probing := b.probing
		p.mu.Unlock()
		if !probing { // else its prober asks
			e, err := p.askHealth(b)
			p.happen(b, e, err)
		}
		select {
		case <-next.C:
		case <-p.ctx.Done():
		}
	}
}

// askHealth asks the health path of b once. It returns healthy, refused or unhealthy, and why.
func (p *Pool) askHealth(b *backend) (event, error) {
	ctx, cancel := context.WithTimeout(p.ctx, healthTimeout)
	defer cancel()
	err := CheckHealth(ctx, b.Backend, p.healthPath)
	switch progress := p.progressOf(err); {
	case err == nil:
		return healthy, nil
	case progress == transport.Unreached, progress == transport.Unsent:
		return refused, fmt.Errorf("health path: %w", err)
	}
	return unhealthy, fmt.Errorf("health path: %w", err)
}

// CheckHealth asks the health path of a backend once, and reports why it is not healthy.
func CheckHealth(ctx context.Context, b Backend, path string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "baton")
	r.Close = true // one that closes its listener may answer on kept connections for long, and its successor stay unseen
	response, err := b.Transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 400 || response.StatusCode < 200 {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxHealthBody))
	return err
}

package service

import (
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
)

var LightCrowd = [load.Habits]int{load.Pausing: 8, load.PerRequest: 1}

// LightLoad is enough to notice that a service is not there.
func LightLoad(t *testing.T, b *Baton) (counts *load.Tally, stop func() *load.Tally) {
	t.Helper()
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files(), Clients: LightCrowd}.Paced()
	counts, stop = load.Start(t, l)
	await.Until(t, "load", func() bool { return counts.Requests() > 16 })
	return counts, stop
}

package upgrade

const (
	pastUpgrades = 10  // kept for the status
	reasonLength = 500 // bytes kept of a reason
)

// record keeps an upgrade for the status.
func (r *run) record(u Upgrade) {
	u.Reason = shorten(u.Reason)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upgrades = append(r.upgrades, u)
	if n := len(r.upgrades); n > pastUpgrades {
		r.upgrades = r.upgrades[n-pastUpgrades:]
	}
}

// recordDrain adds to the upgrade that has replaced a generation how that has drained.
func (r *run) recordDrain(generation int, d Drained) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, u := range r.upgrades {
		if u.From == generation && u.Result == Succeeded {
			r.upgrades[i].Drained = &d
		}
	}
}

// count counts an upgrade, in one of the two generations that record it.
func (r *run) count(result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[result]++
}

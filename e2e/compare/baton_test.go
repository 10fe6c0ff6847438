package compare

import (
	"testing"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/service"
)

func startBatonAsOther(t *testing.T) *other {
	build.Version(t, "v2") // built before the clock runs
	cert, key := certificate.Certificate(t)
	b := service.Start(t, service.OverTLS(cert, key), service.Files(t), service.Args("-idle-timeout", "1h", "-log-level", "warn"))
	next := 2
	return &other{
		name:    "Baton, `baton upgrade`",
		place:   place{address: b.Address, secure: b.Secure(), cert: cert},
		workers: func() []int { return []int{b.PID()} },
		answers: func() int {
			if s, err := b.TryStatus(); err == nil && b.Get("/100.bin").Status == 200 {
				return s.PID
			}
			return 0
		},
		renew: func(t *testing.T) {
			b.Deploy([]string{"v1", "v2"}[(next+1)%2])
			if u := b.Upgrade(); u.Generation != next {
				t.Fatalf("upgrade: got generation %d, want %d", u.Generation, next)
			}
			next++
		},
	}
}

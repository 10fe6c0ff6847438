package upgrade

import (
	"testing"

	"example.com/baton/upgrade/internal/lifecycle"
	"github.com/google/go-cmp/cmp"
)

// reclaimer is a service that counts how often it accepts again.
type reclaimer struct {
	Sharer
	reclaims int
}

func (r *reclaimer) Reclaim() { r.reclaims++ }

func TestTakebacksAreCounted(t *testing.T) {
	service := new(reclaimer)
	c := new(comparison)
	r := &run{Generation: &Generation{number: 1}, service: service, attempt: &attempt{comparison: c}}
	for _, cause := range []lifecycle.Kind{lifecycle.Judged, lifecycle.StageOver, lifecycle.Abort, lifecycle.SuccessorReturns, lifecycle.FlipFailed,
		lifecycle.SuccessorLinkEnded, lifecycle.SuccessorLinkClosed, lifecycle.StartLate, lifecycle.StopSignal, lifecycle.StopMessage} {
		r.reclaim(lifecycle.Action{Do: lifecycle.Reclaim, Cause: cause})
	}
	c.slow = true
	r.reclaim(lifecycle.Action{Do: lifecycle.Reclaim, Cause: lifecycle.Judged})
	r.reclaim(lifecycle.Action{Do: lifecycle.Reclaim, Cause: lifecycle.Abort})
	want := map[Takeback]uint64{TakebackFailed: 1, TakebackUndecided: 1, TakebackAborted: 2, TakebackDied: 5, TakebackSlow: 1}
	if diff := cmp.Diff(want, r.TrialCounts().Takebacks); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if service.reclaims != 12 {
		t.Errorf("accepts again %d times, want 12", service.reclaims)
	}
}

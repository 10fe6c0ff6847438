package link

import (
	"encoding/json"
	"testing"
	"time"
)

// The wall clock is set between the sending of a message and its receipt.
func TestTimesOfTheLink(t *testing.T) {
	for name, test := range map[string]struct {
		step  time.Duration
		clock bool // the sender is a release that tells the clock
		late  time.Duration
	}{
		"as it is":               {0, true, 0},
		"an hour ahead":          {time.Hour, true, 0},
		"a day back":             {-24 * time.Hour, true, 0},
		"received a minute late": {0, true, time.Minute},
		"an hour ahead, late":    {time.Hour, true, time.Minute},
		"from an old release":    {0, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			now := time.Now()
			own := Hello{Started: now.Add(-time.Hour), Asked: now.Add(-2 * time.Second), Begun: now.Add(-time.Second), Deadline: now.Add(time.Minute)}
			before := own
			m := Message{Type: TypePredecessor, Hello: &own, Due: now.Add(30 * time.Second)}.stamp()
			if own.Started != before.Started {
				t.Error("the sender's own times have changed")
			}
			m.Clock -= test.late
			m.Sent = m.Sent.Add(-test.step - test.late)
			for _, at := range m.times() {
				*at = at.Add(-test.step - test.late)
			}
			if !test.clock {
				m.Sent, m.Clock = time.Time{}, 0
			}
			packet, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.conn.Write(packet); err != nil {
				t.Fatal(err)
			}
			got, err := b.Receive(time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			for what, times := range map[string][2]time.Time{
				"started": {got.Hello.Started, before.Started}, "asked": {got.Hello.Asked, before.Asked},
				"begun": {got.Hello.Begun, before.Begun}, "deadline": {got.Hello.Deadline, before.Deadline},
				"due": {got.Due, now.Add(30 * time.Second)},
			} {
				if off := times[0].Sub(times[1].Add(-test.late)); off.Abs() > 10*time.Second {
					t.Errorf("%s: off by %v", what, off)
				}
			}
		})
	}
}

// A release of the past finds the times where it has always found them.
func TestTimesForAnOldRelease(t *testing.T) {
	now := time.Now()
	packet, err := json.Marshal(Message{Type: TypePredecessor, Hello: &Hello{Deadline: now.Add(time.Minute)}, Due: now.Add(time.Hour)}.stamp())
	if err != nil {
		t.Fatal(err)
	}
	var old struct {
		Due   time.Time
		Hello struct{ Started, Asked, Deadline time.Time }
	}
	if err := json.Unmarshal(packet, &old); err != nil {
		t.Fatal(err)
	}
	if old.Due.Sub(now.Add(time.Hour)).Abs() > time.Millisecond ||
		old.Hello.Deadline.Sub(now.Add(time.Minute)).Abs() > time.Millisecond || !old.Hello.Asked.IsZero() {
		t.Errorf("got %+v", old)
	}
}

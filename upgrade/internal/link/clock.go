package link

import (
	"time"

	"golang.org/x/sys/unix"
)

// clock returns CLOCK_MONOTONIC, which all processes share and which cannot be set. It
// stands still while the machine sleeps, as Go's timers do.
func clock() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

// times returns the points in time of a message that the other side calculates with.
func (m *Message) times() []*time.Time {
	times := []*time.Time{&m.Due}
	if h := m.Hello; h != nil {
		times = append(times, &h.Started, &h.Asked, &h.Begun, &h.Deadline)
	}
	return times
}

// stamp returns the message as it is sent. The wall clock may be set before it is
// received, and may have been set since its times were noted: as sent they are
// relative to one moment that is known by both clocks.
func (m Message) stamp() Message {
	if m.Hello != nil {
		own := *m.Hello
		m.Hello = &own
	}
	now := time.Now()
	m.Sent, m.Clock = now.Round(0), clock()
	for _, t := range m.times() {
		if !t.IsZero() {
			*t = m.Sent.Add(t.Sub(now))
		}
	}
	return m
}

// unstamp makes the times of a message that was received such as time.Now returns, with
// a monotonic clock reading. A release that does not stamp counts as one that has sent
// the message just now.
func (m *Message) unstamp() {
	now := time.Now()
	sent, age := now.Round(0), time.Duration(0)
	if m.Clock > 0 {
		sent, age = m.Sent, max(clock()-m.Clock, 0)
	}
	for _, t := range m.times() {
		if !t.IsZero() {
			*t = now.Add(t.Sub(sent) - age)
		}
	}
}

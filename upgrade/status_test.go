package upgrade

import (
	"strings"
	"testing"
	"time"
)

func TestOutcomeString(t *testing.T) {
	for want, o := range map[string]Outcome{
		"upgrade failed: successor failed": {Result: Failed, Reason: "successor failed"},
		"generation 3 (pid 4242, version 1.4.0) serves after 41 ms; generation 2 drained in 1.03 s: 12 requests finished, 340 connections migrated, 72 sent Connection: close, 5 closed idle, 0 closed forcibly": {
			Result: Succeeded, Generation: 3, PID: 4242, Version: "1.4.0", ReadySeconds: 0.0414,
			Predecessor: &Predecessor{Generation: 2, IsDrained: true,
				Drained: Drained{Seconds: 1.03, Requests: 12, Migrated: 340, Connections: Closed{ConnectionClose: 72, IdleGrace: 5}}},
		},
		"generation 3 (pid 4242, version 1.4.0) serves after 41 ms; generation 2 drained in 1.03 s: 12 requests finished, 340 connections migrated (300 http/1.1, 40 http/2+tls), 0 sent Connection: close, 0 closed idle, 0 closed forcibly": {
			Result: Succeeded, Generation: 3, PID: 4242, Version: "1.4.0", ReadySeconds: 0.0414,
			Predecessor: &Predecessor{Generation: 2, IsDrained: true,
				Drained: Drained{Seconds: 1.03, Requests: 12, Migrated: 340, MigratedBy: map[string]int{"http/2+tls": 40, "http/1.1": 300}}},
		},
		"generation 3 (pid 4242, version 1.4.0) serves after 1.50 s; generation 2 still drains: 1 request, 6 connections": {
			Result: Succeeded, Generation: 3, PID: 4242, Version: "1.4.0", ReadySeconds: 1.5,
			Predecessor: &Predecessor{Generation: 2, Load: &Load{Requests: 1, Connections: Connections{New: 1, Active: 2, Idle: 2, Hijacked: 1}}},
		},
	} {
		if got := o.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestStatusString(t *testing.T) {
	serving := Member{Generation: 3, Version: "1.4.0", State: "serving", Load: Load{Requests: 12, Connections: Connections{New: 1, Active: 12, Idle: 320, Hijacked: 7}}}
	draining := Member{Generation: 2, State: "draining", Load: Load{Requests: 1, Connections: Connections{Active: 1}}}
	starting := Member{Generation: 4, Version: "1.5.0", State: "starting"}
	tried := Member{Generation: 4, Version: "1.5.0", State: "probation"}
	trial := &TrialStatus{Stage: StageTrial, Share: .5, From: 3, To: 4, Successor: Outcomes{Ended: 2, Failed: 1}}
	over := &TrialStatus{Verdict: VerdictGood, From: 2, To: 3}
	failed := Upgrade{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local), Result: Failed, Reason: "exit status 1"}
	for want, s := range map[string]Status{
		"generation 3, version 1.4.0, is serving: 12 requests in flight, 340 connections": {Generation: 3, Generations: []Member{serving}},
		"generation 3, version 1.4.0, is serving: 12 requests in flight, 340 connections; generation 2 still drains: 1 request in flight, 1 connection": {
			Generation: 3, Generations: []Member{draining, serving}},
		"generation 3, version 1.4.0, is serving: 12 requests in flight, 340 connections; generation 4, version 1.5.0, is starting": {
			Generation: 3, Generations: []Member{serving, starting}, Trial: over},
		"generation 3, version 1.4.0, is serving: 12 requests in flight, 340 connections; generation 4, version 1.5.0, is probation; trial: 50 % of connections, 2 requests, 1 failed (50.0 %); here 0, 0 failed (0.0 %); 0 s left": {
			Generation: 3, Generations: []Member{serving, tried}, Trial: trial},
		"generation 3, version 1.4.0, is serving: 12 requests in flight, 340 connections; the upgrade of 2026-01-02 03:04:05 failed: exit status 1": {
			Generation: 3, Generations: []Member{serving}, Upgrades: []Upgrade{{Result: Succeeded}, failed}},
		"generation 3, version 1.4.0, is serving: 12 requests in flight, 340 connections ": {
			Generation: 3, Generations: []Member{serving}, Upgrades: []Upgrade{failed, {Result: Succeeded}}},
	} {
		if got := s.String(); got != strings.TrimSpace(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestStatusTable(t *testing.T) {
	var b strings.Builder
	Status{
		Generations: []Member{
			{Generation: 1, PID: 10, Version: "1.0", State: "draining", Age: 3723, Load: Load{Requests: 2, Connections: Connections{Active: 2, Idle: 5, Hijacked: 3}}},
			{Generation: 2, PID: 20, Version: "1.1", State: "serving", Age: 0.25},
		},
		Upgrades: []Upgrade{{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local), Trigger: "control", From: 1, To: 2, Result: Succeeded, Seconds: 0.041, FromVersion: "1.0", ToVersion: "1.1",
			Drained: &Drained{Migrated: 34, MigratedBy: map[string]int{"tunnel": 4, "http/1.1+tls": 30}, Connections: Closed{Client: 1, ConnectionClose: 2, DrainTimeout: 3}}},
			{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local), Trigger: "signal", From: 1, To: 2, Result: Succeeded, Drained: new(Drained)},
			{Time: time.Date(2026, 1, 2, 3, 4, 6, 0, time.Local), Trigger: "signal", From: 2, To: 3, Result: Failed, Seconds: 0.005, FromVersion: "1.1", Reason: "exit status 1"}},
		Trial: &TrialStatus{Verdict: VerdictBad, From: 2, To: 3, Ends: time.Date(2026, 1, 2, 3, 4, 6, 0, time.Local), Reason: "7 of 7 requests failed",
			Successor: Outcomes{Ended: 7, Failed: 7}, Serving: Outcomes{Ended: 10}},
	}.WriteTo(&b)
	want := `GENERATION  PID  VERSION  STATE     AGE     REQUESTS  NEW  ACTIVE  IDLE  HIJACKED
1           10   1.0      draining  1h2m3s  2         0    2       5     3
2           20   1.1      serving   250 ms  0         0    0       0     0

TRIAL        GENERATION  REQUESTS  FAILED       DENIED  REDIRECTED  EMPTY  MEDIAN
successor    3           7         7 (100.0 %)  0       0           0      -
predecessor  2           10        0            0       0           0      -
Verdict of 2026-01-02 03:04:06: bad; 7 of 7 requests failed

UPGRADE  VERSIONS    AT                   BY       RESULT     AFTER  MIGRATED                   CLOSED                                                 REASON
1 to 2   1.0 to 1.1  2026-01-02 03:04:05  control  succeeded  41 ms  30 http/1.1+tls, 4 tunnel  1 by the client, 2 sent Connection: close, 3 forcibly  
1 to 2   ? to ?      2026-01-02 03:04:05  signal   succeeded  0 ms   0                          0                                                      
2 to 3   1.1 to ?    2026-01-02 03:04:06  signal   failed     5 ms                                                                                     exit status 1
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestStatusDropsAll(t *testing.T) {
	s := Status{Listen: []string{"127.0.0.1:80", "[::]:81", "unix:/a"}}
	for _, test := range []struct {
		addrs []string
		want  bool
	}{
		{[]string{":8080"}, true},
		{[]string{"127.0.0.1:81"}, true}, // of the one at all addresses
		{[]string{"unix:/b", "127.0.0.2:80"}, true},
		{[]string{":8080", "localhost:80"}, false},
		{[]string{"0.0.0.0:81"}, false},
		{[]string{"unix:/b/../a"}, false},
		{[]string{"127.0.0.1:0"}, false},
	} {
		if got := s.DropsAll(test.addrs...); got != test.want {
			t.Errorf("%q: got %v, want %v", test.addrs, got, test.want)
		}
	}
}

// A drain belongs to the upgrade that succeeded from that generation, and a status that was
// read before is not changed.
func TestDrainOfUpgrade(t *testing.T) {
	r := &run{Generation: &Generation{log: discard}}
	for _, u := range []Upgrade{{From: 1, To: 2, Result: Failed}, {From: 1, To: 2, Result: Succeeded}, {From: 2, To: 3, Result: Succeeded}} {
		r.record(u)
	}
	before := r.Status()
	r.recordDrain(1, Drained{Migrated: 7})
	for i, want := range []bool{false, true, false} {
		d := r.Status().Upgrades[i].Drained
		if (d != nil) != want || want && d.Migrated != 7 || before.Upgrades[i].Drained != nil {
			t.Errorf("upgrade %d: got %+v, before %+v, want one: %v", i, d, before.Upgrades[i].Drained, want)
		}
	}
}

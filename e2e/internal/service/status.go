package service

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
)

// generation is one line of the status.
type generation struct {
	Generation       int
	PID              int
	Version          string
	State            string
	AgeSeconds       float64 `json:"age_seconds"`
	RequestsInFlight int     `json:"requests_in_flight"`
	Connections      struct{ New, Active, Idle, Hijacked int }
}

// Status is what `baton status -json` and /status report.
type Status struct {
	Generation  int
	PID         int
	Version     string
	State       string
	Listen      []string
	Generations []generation
	Upgrades    []struct {
		Time     time.Time
		Trigger  string
		From, To int
		Result   string
		Reason   string
		Seconds  float64
		Drained  *struct {
			Moved    int            `json:"connections_moved"`
			Migrated map[string]int `json:"connections_migrated"` // by protocol
		}
	}
	Trial *Trial // the one that runs, or the last one
}

// Trial is a trial of a successor.
type Trial struct {
	Stage, Verdict, Reason string
	Successor, Serving     struct{ Ended, Failed int } // requests
}

// TryStatus asks over the admin listener, which answers from the first to the last moment of the service.
func (b *Baton) TryStatus() (*Status, error) {
	resp, err := http1.Fetch("tcp", b.Admin, "GET", "/status")
	if err != nil {
		return nil, err
	}
	if resp.Status != 200 {
		return nil, fmt.Errorf("status: got %d", resp.Status)
	}
	s := new(Status)
	return s, json.Unmarshal(resp.Body, s)
}

// Decider asks over the control socket, where the generation answers that decides whatever becomes of its successor.
// It returns nil if none does.
func (b *Baton) Decider() *Status {
	b.T.Helper()
	code, stdout, _ := b.Run("status", "-json", "-control", b.Control)
	s := new(Status)
	if code != 0 || json.Unmarshal([]byte(stdout), s) != nil {
		return nil
	}
	return s
}

// Status asks over the admin listener.
func (b *Baton) Status() *Status {
	b.T.Helper()
	s, err := b.TryStatus()
	if err != nil {
		b.T.Fatal(err)
	}
	return s
}

// AwaitGeneration waits until a generation serves alone, and returns its pid.
func (b *Baton) AwaitGeneration(n int) (pid int) {
	b.T.Helper()
	await.Until(b.T, fmt.Sprintf("generation %d that serves alone", n), func() bool {
		s, err := b.TryStatus()
		if err != nil || s.Generation != n || s.State != "serving" || len(s.Generations) != 1 {
			return false
		}
		pid = s.PID
		return true
	})
	b.Follow(pid)
	return pid
}

var label = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)

// Metric returns the value of a metric with these labels, given as name and value in turn. Of several, which differ in
// other labels, it is the sum.
func (b *Baton) Metric(name string, labels ...string) float64 {
	b.T.Helper()
	resp, err := http1.Fetch("tcp", b.Admin, "GET", "/metrics")
	if err != nil {
		b.T.Fatal(err)
	}
	found, sum := false, 0.0
	for line := range strings.Lines(string(resp.Body)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		has := make(map[string]string)
		for _, m := range label.FindAllStringSubmatch(rest, -1) {
			has[m[1]] = m[2]
		}
		matches := true
		for i := 0; i < len(labels); i += 2 {
			matches = matches && has[labels[i]] == labels[i+1]
		}
		if matches {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:]), 64)
			if err != nil {
				b.T.Fatalf("metric %s: %v", line, err)
			}
			found, sum = true, sum+v
		}
	}
	if !found {
		b.T.Fatalf("metric %s%v: got none", name, labels)
	}
	return sum
}

// Connections counts those of the public listeners, in all generations.
func (b *Baton) Connections() (n int) {
	b.T.Helper()
	for _, g := range b.Status().Generations {
		n += g.Connections.New + g.Connections.Active + g.Connections.Idle
	}
	return n
}

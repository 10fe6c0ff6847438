package metrics

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"example.com/baton/handlers/backends"
	"example.com/baton/handlers/internal/testserver"
)

// Those beyond the bound count together, and so do those whose names are too long.
func TestManyBackends(t *testing.T) {
	var all []backends.Backend
	for i := range 200 {
		all = append(all, backends.Backend{Name: fmt.Sprintf("unix:/%0120d", i), State: "up", InProgress: 1, Errors: 1 << 50, Requests: map[int]uint64{200: 1 << 50, 404: 1, 502: 1 << 50}})
	}
	all[3].Name += strings.Repeat("x", 100)
	all[190].State = "sick"
	m := New(Options{Source: func() Snapshot { return Snapshot{Backends: backends.Report{Backends: all}} }})
	_, samples := scrape(t, m)
	text := strings.Join(samples, "\n")
	for name, want := range map[string]int{`baton_backend_up{`: maxBackends + 1, `baton_backend_requests_total{`: (maxBackends + 1) * len(backends.Classes),
		`baton_backend_requests_in_progress{backend="other"} 168`: 1, `baton_backend_requests_total{backend="other",code="4xx"} 168`: 1,
		`baton_backend_up{backend="other"} 0`: 1, `xxxx`: 0} {
		testserver.Equal(t, name, strings.Count(text, name), want)
	}
	counted := make(map[string]float64)
	for name, n := range m.Own() {
		if strings.HasPrefix(name, "baton_backend_") {
			counted[name] = n
		}
	}
	own, _ := json.Marshal(counted)
	if len(own) > 45_000 {
		t.Errorf("%d values of backends have %d bytes, want less than 45,000", len(counted), len(own))
	}
}

func TestKeepBackends(t *testing.T) {
	keep := KeepBackends([]backends.Backend{{Name: "http://a"}, {Name: `unix:/"b"\`}})
	for series, want := range map[string]bool{
		`baton_backend_requests_total{backend="http://a",code="2xx"}`:   true,
		`baton_backend_requests_total{code="2xx",backend="http://a"}`:   true,
		`baton_backend_errors_total{backend="unix:/\"b\"\\"}`:           true,
		`baton_backend_requests_total{backend="http://old",code="2xx"}`: false,
		`baton_backend_requests_total{backend="other",code="2xx"}`:      false,
		`baton_backend_errors_total`:                                    false,
		`baton_backend_errors_total{`:                                   false,
		`baton_http_requests_total{code="200",method="GET"}`:            true,
		`another_total{backend="http://old"}`:                           true,
	} {
		testserver.Equal(t, series, keep(series), want)
	}
}

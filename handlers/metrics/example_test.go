package metrics_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"example.com/baton/handlers/metrics"
	"example.com/baton/upgrade"
)

// A scrape has what this generation has counted and what its predecessors had.
func Example() {
	m := metrics.New(metrics.Options{
		Version: "1.4.0",
		Source:  func() metrics.Snapshot { return metrics.Snapshot{Generation: 2, State: upgrade.Serving} },
		Others: func(context.Context) map[string]float64 { // what Own returned in generation 1
			return map[string]float64{`baton_http_requests_total{code="200",method="GET"}`: 41}
		},
	})
	hello := m.Count(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }))
	hello.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))

	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for lines := bufio.NewScanner(w.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "baton_http_requests_total") || strings.HasPrefix(lines.Text(), "baton_generation") {
			fmt.Println(lines.Text())
		}
	}
	// Output:
	// baton_generation 2
	// baton_http_requests_total{code="200",method="GET"} 42
}

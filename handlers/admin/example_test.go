package admin_test

import (
	"fmt"
	"net/http/httptest"

	"example.com/baton/handlers/admin"
	"example.com/baton/handlers/metrics"
	"example.com/baton/upgrade"
)

// The admin listener of a service that takes requests.
func Example() {
	status := upgrade.Status{Generation: 3, PID: 4242, Version: "1.4.0", State: upgrade.Serving.String()}
	handler := admin.Handler(admin.Options{
		Metrics: metrics.New(metrics.Options{
			Version: status.Version,
			Source:  func() metrics.Snapshot { return metrics.Snapshot{Generation: 3, State: upgrade.Serving} },
		}),
		Ready:  func() bool { return true },
		Status: func() upgrade.Status { return status },
	})
	for _, path := range []string{"/readyz", "/healthz", "/status"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Printf("%s %d %.57s\n", path, w.Code, w.Body)
	}
	// Output:
	// /readyz 200 ready
	//
	// /healthz 200 ok
	//
	// /status 200 {"generation":3,"pid":4242,"version":"1.4.0","state":"ser
}

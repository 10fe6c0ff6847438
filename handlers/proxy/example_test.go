package proxy_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"example.com/baton/handlers/metrics"
	"example.com/baton/handlers/middleware"
	"example.com/baton/handlers/proxy"
	"example.com/baton/upgrade"
)

// A public listener that serves an application, with log and metrics around it.
func Example() {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the application sees %s", r.URL.Path)
	}))
	defer app.Close()

	rule, err := proxy.ParseRule("/app/=" + app.URL + "/")
	if err != nil {
		fmt.Println(err)
		return
	}
	logger := slog.New(slog.DiscardHandler)
	counts := metrics.New(metrics.Options{
		Version: "1.4.0",
		Source:  func() metrics.Snapshot { return metrics.Snapshot{Generation: 1, State: upgrade.Serving} },
	})
	front := proxy.New(proxy.Options{Rules: []proxy.Rule{rule}, Logger: logger})
	baton := httptest.NewServer(middleware.Log(counts.Count(front), logger))
	defer baton.Close()

	for _, path := range []string{"/app/hello", "/elsewhere"} {
		response, err := http.Get(baton.URL + path)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		fmt.Printf("%d %.36s\n", response.StatusCode, body)
	}
	http.DefaultClient.CloseIdleConnections()
	// Output:
	// 200 the application sees /hello
	// 404 {"error":"not found","status":404,"r
}

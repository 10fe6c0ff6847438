package middleware_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"example.com/baton/handlers/middleware"
)

// Each request gets an id, and a line in the log.
func Example() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.MessageKey, "method", "path", "status", "request_id":
				return a
			}
			return slog.Attr{}
		},
	}))
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	handler := middleware.Log(middleware.Resources(hello), logger)
	for _, method := range []string{"GET", "CONNECT"} {
		r := httptest.NewRequest(method, "/", nil)
		r.Header.Set("X-Request-Id", "id-1")
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	// Output:
	// msg=request method=GET path=/ status=200 request_id=id-1
	// msg=request method=CONNECT path=/ status=405 request_id=id-1
}

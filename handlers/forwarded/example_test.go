package forwarded_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"example.com/baton/handlers/forwarded"
)

// The load balancer has appended the address of its client to what that had sent.
func Example() {
	var trusted forwarded.Trusted
	if err := trusted.Add("10.0.0.0/8"); err != nil {
		panic(err)
	}
	handler := trusted.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if origin, ok := forwarded.From(r.Context()); ok {
			fmt.Println(origin.Client)
		}
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "10.0.0.1:40000"
	r.Header.Set("X-Forwarded-For", "127.0.0.1, 203.0.113.7")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output: 203.0.113.7
}

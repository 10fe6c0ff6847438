package proxy

import (
	"net/http"
	"testing"

	"example.com/baton/handlers/forwarded"
	"example.com/baton/handlers/internal/testserver"
)

// The fields of a trusted proxy are kept and extended, those of others replaced.
func TestForwardedFields(t *testing.T) {
	for name, test := range map[string]struct {
		trusted string
		fields  []string
		want    [3]string // For, Proto and Host; empty Host: that of the server
	}{
		"trusted": {"127.0.0.1", []string{"X-Forwarded-For", "203.0.113.7", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.example"},
			[3]string{"203.0.113.7, 127.0.0.1", "https", "shop.example"}},
		"trusted, and Connection names them": {"127.0.0.1", []string{"X-Forwarded-For", "203.0.113.7", "X-Forwarded-Proto", "https", "Connection", "X-Forwarded-For, X-Forwarded-Proto"},
			[3]string{"203.0.113.7, 127.0.0.1", "https", ""}},
		"trusted, no fields":     {"127.0.0.1", nil, [3]string{"127.0.0.1", "http", ""}},
		"trusted, other fields":  {"127.0.0.1", []string{"Forwarded", "for=1.2.3.4;proto=https", "X_Forwarded_For", "1.2.3.4"}, [3]string{"127.0.0.1", "http", ""}},
		"trusted, what is wrong": {"127.0.0.1", []string{"X-Forwarded-Proto", "gopher", "X-Forwarded-Host", "a/b"}, [3]string{"127.0.0.1", "http", ""}},
		"others":                 {"10.0.0.0/8", []string{"X-Forwarded-For", "10.0.0.1", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "x"}, [3]string{"127.0.0.1", "http", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var got [3]string
			var forwardedField string
			app := testserver.Serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got = [3]string{r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host")}
				testserver.Equal(t, "lines", len(r.Header["X-Forwarded-For"]), 1)
				forwardedField = r.Header.Get("Forwarded") + r.Header.Get("X_Forwarded_For")
			}))
			var trusted forwarded.Trusted
			trusted.Add(test.trusted)
			server := testserver.Serve(t, trusted.Handler(start(t, Options{Rules: rules(t, "/="+app.URL), Logger: testserver.Discard()})))
			testserver.Do(t, server, "GET", "/", test.fields...)
			if test.want[2] == "" {
				test.want[2] = server.Listener.Addr().String()
			}
			testserver.Equal(t, "fields", got, test.want)
			testserver.Equal(t, "other fields", forwardedField, "")
		})
	}
}

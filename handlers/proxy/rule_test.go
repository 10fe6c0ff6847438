package proxy

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

func TestParseProxyRule(t *testing.T) {
	for _, test := range []struct{ name, rule, problem string }{
		{"plain", "/=http://127.0.0.1:3000", ""},
		{"with path", "/b/=https://app.example/x/", ""},
		{"IPv6", "/=http://[::1]:3000", ""},
		{"IPv6 without port", "/=http://[::1]", ""},
		{"equals sign in the path", "/=http://h/a=b", ""},
		{"empty", "", "no '='"},
		{"no equals sign", "/api", "expected PREFIX=URL"},
		{"no prefix", "=http://h", "does not begin with '/'"},
		{"relative prefix", "api=http://h", "does not begin with '/'"},
		{"escaped prefix", "/a%20b=http://h", "plain text"},
		{"prefix with query", "/a?b=http://h", "plain text"},
		{"double slash", "//a=http://h", "empty or dot elements"},
		{"dots in prefix", "/a/../b=http://h", "empty or dot elements"},
		{"parameters in prefix", "/a;b/=http://h", "different ways"},
		{"backslash in prefix", `/a\b/=http://h`, "different ways"},
		{"control character in prefix", "/a\tb/=http://h", "different ways"},
		{"odd, but possible", "/@x:y/a b/\u00e9=http://h", ""},
		{"no URL", "/=", "is none of http, https and unix"},
		{"bare address", "/=127.0.0.1:3000", "URL is invalid"},
		{"host and port", "/=localhost:3000", "is none of http, https and unix"},
		{"other scheme", "/=ftp://h", "is none of http, https and unix"},
		{"no host", "/=http:///x", "has no host"},
		{"only a port", "/=http://:3000", "has no host"},
		{"port out of range", "/=http://h:70000", "1 to 65535"},
		{"empty port", "/=http://h:", "1 to 65535"},
		{"port no number", "/=http://h:x", "URL is invalid"},
		{"user", "/=http://me:hunter2@h", "has a user"},
		{"query", "/=http://h/?a=b", "has a query"},
		{"empty query", "/=http://h/?", "has a query"},
		{"fragment", "/=http://h/#a", "has a fragment"},
		{"dots in path", "/=http://h/a/../b", "dot elements"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rule, err := ParseRule(test.rule)
			if test.problem == "" {
				if err != nil || rule.Prefix+"="+rule.Target.String() != test.rule {
					t.Errorf("got %v, %v, want %s", rule, err, test.rule)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("got %v, want an error with %q", err, test.problem)
			}
		})
	}
}

// Whatever is wrong with a rule, nothing of a password is in the error.
func TestParseProxyRuleHidesPasswords(t *testing.T) {
	for _, rule := range []string{
		"/=http://me:hunter2@h",
		"/=http://me:hunter2@h:x",
		"/=http://me:hunter2@h:70000",
		"/=http://me:hunter2@",
		"/=http://me:hun/ter2@h",
		"/=http://me:hunter2%zz@h",
		"/=http://me:hunter2 x@h",
		"/=http://me:hunter2", // what is left of one with a comma
		"/=http://h/?password=hunter2",
		"/=me:hunter2@h",
		"/=ftp://me:hunter2@h",
		"/=http://hunter2@h",
		"/a%20b=http://me:hunter2@h",
		"/api/:http://me:hunter2@h",
		"http://me:hunter2@h/",
		"http://me:hunter2@h/=/api/",
		"/api/http://me:hunter2@h/?a=b",
		"/api/http://me:hunter2@h=/",
	} {
		_, err := ParseRule(rule)
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "hun") {
			t.Errorf("%s: got %v, want an error without the password", rule, err)
		}
	}
}

func rules(t *testing.T, specs ...string) (parsed []Rule) {
	t.Helper()
	for _, spec := range specs {
		rule, err := ParseRule(spec)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, rule)
	}
	return parsed
}

func TestProxyPaths(t *testing.T) {
	var seen string
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.RequestURI }))
	t.Cleanup(backend.Close)

	for _, test := range []struct{ rule, path, want string }{ // want: what the backend sees, or the status
		{"/", "/", "/"},
		{"/", "/a/b?c=d", "/a/b?c=d"},
		{"/", "//a//b", "//a//b"},
		{"/", "/a%2Fb%20c", "/a%2Fb%20c"},
		{"/", "/a/../b", "/a/../b"},
		{"/", "/?a=1;b=%zz&&c", "/?a=1;b=%zz&&c"},
		{"/b/", "/b/x", "/b/x"},
		{"/b/", "/c/x", "404"},
		{"/b/", "/bc", "404"},
		{"/b", "/b", "/b"},
		{"/b", "/b/x", "/b/x"},
		{"/b", "/bc", "404"},

		{"/b/ /", "/b/x", "/x"},
		{"/b/ /", "/b/", "/"},
		{"/b/ /", "/b/x%2Fy?q", "/x%2Fy?q"},
		{"/b/ /", "/%62/x", "/x"},
		{"/b/ /", "/b%2Fx", "/x"},
		{"/b/ /", "/b//x", "//x"},
		{"/b/ /app", "/b/x", "/app/x"},
		{"/b/ /app/", "/b/x", "/app/x"},
		{"/b/ /app/", "/b/", "/app/"},
		{"/b /", "/b", "/"},
		{"/b /", "/b/x", "/x"},
		{"/b /app", "/b", "/app"},
		{"/b /app", "/b/x/", "/app/x/"},
		{"/b /app", "/b%2Fx%2F", "/app/x%2F"},
		{"/ /app", "/x", "/app/x"},
		{"/ /a%2Fb/", "/x%2Fy", "/a%2Fb/x%2Fy"},
		{"/b/ /app/", "/b/../x", "400"},
		{"/b/ /app/", "/b/%2e%2e/x", "400"},
		{"/b/ /app/", "/b/..%2Fx", "400"},
		{"/b/ /app/", "/b/..x", "/app/..x"},

		{"/b/", "/b", "308 /b/"},
		{"/b/", "/b?c=d", "308 /b/?c=d"},
		{"/b/", "/%62", "308 /%62/"},
		{"/b/", "//b", "404"}, // or the address after // would be that of another host
		{"/b/", "/%2Fb", "404"},
		{"/b/", "/%5Cb", "404"},
	} {
		t.Run(test.rule+" "+test.path, func(t *testing.T) {
			prefix, path, _ := strings.Cut(test.rule, " ")
			server := testserver.Serve(t, start(t, Options{Rules: rules(t, prefix+"="+backend.URL+path), Logger: testserver.Discard()}))
			seen = ""
			response, _ := testserver.Do(t, server, "GET", test.path)
			got := seen
			if response.StatusCode != 200 {
				got = strings.TrimSpace(response.Status[:3] + " " + response.Header.Get("Location"))
			}
			testserver.Equal(t, "backend sees", got, test.want)
		})
	}
}

func TestProxyLongestPrefix(t *testing.T) {
	name := func(name string) string {
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(name)) }))
		t.Cleanup(backend.Close)
		return backend.URL
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("next")) })
	server := testserver.Serve(t, start(t, Options{Logger: testserver.Discard(), Next: next, Rules: rules(t,
		"/a="+name("a"), "/a/b/="+name("a/b/"), "/a/b/c="+name("a/b/c"), "/d/="+name("d/"))}))
	for _, test := range []struct{ path, want string }{
		{"/", "next"}, {"/ab", "next"}, {"/a", "a"}, {"/a/x", "a"}, {"/a/bc", "a"},
		{"/a/b", "a"}, // another rule covers it, so no redirect to /a/b/
		{"/a/b/", "a/b/"}, {"/a/b/x", "a/b/"}, {"/a/b/c", "a/b/c"}, {"/a/b/c/d", "a/b/c"}, {"/a/b/cd", "a/b/"}, {"/d/", "d/"},
	} {
		_, got := testserver.Do(t, server, "GET", test.path)
		testserver.Equal(t, test.path, got, test.want)
	}
}

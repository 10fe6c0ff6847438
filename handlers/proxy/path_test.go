package proxy

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/request"
	"example.com/baton/handlers/internal/testserver"
)

var (
	manySlashes  = regexp.MustCompile("/+")
	encodedSlash = regexp.MustCompile("(?i)%2f")
	parameters   = regexp.MustCompile(";[^/]*")
)

// ruleSets are of all kinds: with and without a slash, a path, other rules above and below.
var ruleSets = [][]string{
	{"/=http://0"},
	{"/=http://0/app"},
	{"/public/=http://0"},
	{"/public=http://0"},
	{"/public/=http://0/app/"},
	{"/public/=http://0/"},
	{"/public=http://0/a%2Fb"},
	{"/=http://0", "/public/=http://1", "/public/private/=http://2"},
	{"/=http://0/", "/public=http://1/app", "/public/private=http://2", "/admin/=http://3"},
	{"/a/b/c/=http://0", "/a/b=http://1", "/public/=http://2/public/"},
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// pathProxies are proxies for ruleSets, each with what its backend got last: the
// number of the rule, and the path on the wire.
type pathProxy struct {
	handler http.Handler
	rules   []Rule
	rule    int
	sent    string
}

func newPathProxies(t testing.TB) (proxies []*pathProxy) {
	for _, set := range ruleSets {
		pp := &pathProxy{}
		for _, spec := range set {
			rule, err := ParseRule(spec)
			if err != nil {
				t.Fatal(err)
			}
			pp.rules = append(pp.rules, rule)
		}
		pp.handler = start(t, Options{Rules: pp.rules, Logger: testserver.Discard()})
		for _, route := range pp.handler.(*Proxy).routes {
			route.backend.Transport = transportFunc(func(r *http.Request) (*http.Response, error) {
				fmt.Sscan(r.URL.Host, &pp.rule)
				pp.sent, _, _ = strings.Cut(r.URL.RequestURI(), "?")
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
			})
		}
		proxies = append(proxies, pp)
	}
	return proxies
}

// get sends a request with that target as HTTP/1.1 has it, and returns the status.
func (pp *pathProxy) get(target string) int {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n")))
	if err != nil {
		return 400
	}
	pp.rule = -1
	w := httptest.NewRecorder()
	pp.handler.ServeHTTP(w, r)
	return w.Code
}

// escape returns who resolves what was sent to something that the rule does not cover.
func (pp *pathProxy) escape() error {
	rule := pp.rules[pp.rule]
	below := func(prefix, p string) bool {
		return p == prefix || strings.HasPrefix(p, strings.TrimSuffix(prefix, "/")+"/")
	}
	for name, resolve := range resolvers {
		got := resolve(pp.sent)
		if got == "" {
			continue
		}
		if base := rule.Target.Path; base != "" {
			if !below(base, got) && !below(rule.Target.EscapedPath(), got) {
				return fmt.Errorf("%s resolves %s to %s, which is not below %s", name, pp.sent, got, base)
			}
			continue
		}
		if !below(rule.Prefix, got) {
			return fmt.Errorf("%s resolves %s to %s, which is not below %s", name, pp.sent, got, rule.Prefix)
		}
		for _, other := range pp.rules {
			if len(other.Prefix) > len(rule.Prefix) && below(other.Prefix, got) {
				return fmt.Errorf("%s resolves %s to %s, which is for %s, not %s", name, pp.sent, got, other.Prefix, rule.Prefix)
			}
		}
	}
	return nil
}

func (pp *pathProxy) check(t *testing.T, target string) (passed bool) {
	t.Helper()
	if passed = pp.get(target) == 200; passed {
		if err := pp.escape(); err != nil {
			t.Errorf("rules %v, GET %s: %v", pp.rules, target, err)
		}
	}
	return passed
}

// pathPieces are what paths that are made to lead out of a rule are made of.
var pathPieces = []string{"/", "/", "/", "..", "..", ".", "public", "private", "admin", "a", "b", "app", "x", "%2e", "%2E%2e", ".%2e", "%2f", "%2F",
	`\`, "%5c", ";", ";x=1", "%3b", "//", "%252e", "%252e%252e", "%252f", "%25", "%00", "%09", "%20", "%0a", "%c0%ae", "%c0%af", "%e0%80%ae",
	"%70ublic", "%70rivate", "%3f", "%23", "|", "\u00e9", "%C3%A9", "...", "/public/", "/public/private/", "/a/b/c/", "/../"}

func randomPath(random *rand.Rand) string {
	target := []string{"/", "/public/", "/public", "/a/b/c/", "/public/private/", "//"}[random.IntN(6)]
	for range random.IntN(10) {
		target += pathPieces[random.IntN(len(pathPieces))]
	}
	return target
}

// No backend, whatever it makes of a path, gets one from a rule that it then takes
// for a path of another rule or of none.
func TestProxyPathsAtRandom(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	proxies := newPathProxies(t)
	passed := 0
	for range 1000 {
		target := randomPath(random)
		for _, pp := range proxies {
			if pp.check(t, target) {
				passed++
			}
		}
		if t.Failed() {
			return
		}
	}
	if passed < 1000 {
		t.Errorf("%d requests passed, want more: the test tries nothing", passed)
	}
}

func FuzzProxyPaths(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		f.Add(randomPath(random))
	}
	proxies := newPathProxies(f)
	f.Fuzz(func(t *testing.T, target string) {
		for _, pp := range proxies {
			pp.check(t, target)
		}
	})
}

func TestProxyPathStaysInRule(t *testing.T) {
	outside := []string{"/public/../admin", "/public/%2e%2e/admin", "/public/..%2fadmin", "/public/x/../../admin", "/public//../admin",
		"/public%2f..%2fadmin", "/public/.%2e/", "/public/%2e./admin", "/public/..", "/public/%2E%2E", "/public/x/../..", "/public/..;/admin",
		"/public/..;x=1/admin", "/public/..%3b/admin", `/public/..\admin`, "/public/..%5cadmin", "/public/%252e%252e/admin",
		"/public/..%252fadmin", "/public/%25252e%25252e/admin", "/public/..%00/admin", "/public/.%09./admin", "/public/.%0a./admin",
		"/public/..%20/admin", "/public/%c0%ae%c0%ae/admin", "/public/..%c0%afadmin", "/public/%e0%80%ae%e0%80%ae/admin", "/public/\uff0e\uff0e/admin", "/public/..%ef%bc%8fadmin", "/public/./../admin",
		"/public/;/../admin", "/public/a%2Fb/../../../admin", "/public/a%2Fb/../../x", "/public/../public/../admin", "http://h/public/../admin",
		"http://h/public/%2e%2e/admin", "/public/x/../../publicx/y", "/public/../../../public/../admin", "/public/..?x", "/public/..%3fx",
		"/public/%" + strings.Repeat("25", 20000) + "2e", "/public/" + strings.Repeat("x/", 3000) + strings.Repeat("..%2f", 3001) + "admin"}
	inside := []string{"/public/", "/public/x", "/public/a%2Fb", "/public/a%2fb%20c", "/public//x", "/public/x//y/", "/public/x;v=1/y", "/public/..x/...",
		"/public/a/../b", "/public/a/%2e%2e/b", "/public/a/b/../", "/public/./x", "/public/x%00", "/public/%C3%A9|\u00e9", "/public/%e9", "/public/100%25",
		"/public/a%252Fb", "/public/%5cx", "/public/https://h/../x", "/public/.well-known/x", "/public/" + strings.Repeat("%20x", 5000)}
	overlap := []string{"/public//private/x", "/public/./private/x", "/public/private;x/y", "/public/x/../private/y", "/public/%2e/private/y",
		"/public/private/../x", "/public/private/..%2fx", "/public/%2570rivate/y", "/public/%2fprivate/", "//public/x", "/./public/x", "/;x/public/x",
		"/x/../public/y", "/%2fpublic/x", "//h/public/x", "///h/public/x", "/x/%2e%2e/public/y", `/%5cpublic/x`}
	every := func(sets ...[]string) (all []string) { return slices.Concat(sets...) }
	for _, test := range []struct {
		name    string
		rules   int // its index in ruleSets
		targets []string
		want    int
	}{
		{"nowhere else to go", 0, every(outside, inside, overlap), 200},
		{"outside", 2, outside, 400},
		{"outside, without slash", 3, slices.DeleteFunc(slices.Clone(outside), func(s string) bool { return s == "/public/x/../.." }), 400},
		{"outside, with path", 4, outside, 400},
		{"outside, with path /", 5, outside, 400},
		{"outside, with other rules", 7, outside, 400},
		{"inside", 2, inside, 200},
		{"inside, without slash", 3, every(inside, []string{"/public", "/public/.", "/public/x/.."}), 200},
		{"inside, with path", 4, inside, 200},
		{"inside, with path /", 5, inside, 200},
		{"inside, with other rules", 7, slices.DeleteFunc(slices.Clone(inside), func(s string) bool { return strings.Contains(s, "private") }), 200},
		{"from one rule to another", 7, overlap, 400},
		{"what Go's mux takes for /public", 2, []string{"/public/.", "/public/%2e", "/public/x/.."}, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			pp := newPathProxies(t)[test.rules]
			for _, target := range test.targets {
				got := pp.get(target)
				testserver.Equal(t, request.Shorten(target), got, test.want)
				if got == 200 {
					if err := pp.escape(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// The rest of a path is passed on as it was sent, and the prefix as the rule has it.
func TestProxyPathAsSent(t *testing.T) {
	for _, test := range []struct {
		rules        int
		target, sent string
	}{
		{0, "/a%2fb|c%7Cd", "/a%2fb%7Cc%7Cd"},
		{0, `/a%2Fb"\^` + "\u00e9%c3%a9", "/a%2Fb%22%5C%5E%C3%A9%c3%a9"},
		{0, "//h/../x", "//h/../x"},
		{0, "/..", "/.."},
		{2, "/%70ublic/%70", "/public/%70"},
		{2, "/public%2Fx", "/public/x"},
		{2, "/public/a%2Fb%2e", "/public/a%2Fb%2e"},
		{4, "/public/a%2F|", "/app/a%2F%7C"},
		{4, "/public%2Fa", "/app/a"},
	} {
		pp := newPathProxies(t)[test.rules]
		testserver.Equal(t, test.target+": status", pp.get(test.target), 200)
		testserver.Equal(t, test.target, pp.sent, test.sent)
	}
}

// Paths cost little, long or not, whatever is in them.
func TestReadingsAreBounded(t *testing.T) {
	var paths []string
	for _, piece := range []string{"%25", "%20", "..;%5c", "/../%2e", "//", "%c0%ae", ";", "%252f", "/%09.%3b%25252e/"} {
		paths = append(paths, "/"+strings.Repeat(piece, 60<<10/len(piece)))
	}
	const many = `/x%ef%bc%8f%25252f%2525%5c%20//%252f%c0%af%ef%bc%8f%255c%2525/../..%c0%af%2525//\%c0%ae%3b%253b\%3f` // short, of thousands
	if _, ok := readings(many); ok {
		t.Errorf("%s: got all readings, want too many", many)
	}
	for _, path := range append(paths, many) {
		var all []string
		allocated := testing.AllocsPerRun(1, func() { all, _ = readings(path) })
		if allocated > 100_000 {
			t.Errorf("%.60s: %.0f allocations, want at most 100,000", path, allocated)
		}
		size := 0
		for _, reading := range all {
			size += len(reading)
		}
		if size > maxReadingBytes || len(all) > maxReadings {
			t.Errorf("%.60s: got %d readings of %d bytes, want at most %d of %d", path, len(all), size, maxReadings, maxReadingBytes)
		}
	}
}

func BenchmarkProxyPaths(b *testing.B) {
	for _, target := range []string{"/public/x", "/public/a%20b", "/public/a%2Fb;c/../d", "/public/" + strings.Repeat("%25", 20000), "/public/" + strings.Repeat("/%09.%3b%25252e", 4000),
		"/public/" + strings.Repeat("%25", 100) + "20;" + strings.Repeat("/%09.%3b%25252e//", 10)} {
		b.Run(request.Shorten(target)[:min(30, len(target))], func(b *testing.B) {
			p := newPathProxies(b)[7].handler.(*Proxy)
			u, _ := url.ParseRequestURI(target)
			i := p.covering(u.Path)
			for b.Loop() {
				p.keeps(i, u)
			}
		})
	}
}

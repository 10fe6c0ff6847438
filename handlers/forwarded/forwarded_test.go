package forwarded

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func trusted(t *testing.T, peers ...string) (all Trusted) {
	t.Helper()
	for _, s := range peers {
		if err := all.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestAdd(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.0/8":          "",
		"10.1.2.3":            "",
		"0.0.0.0/0":           "",
		"fd00::/8":            "",
		"::1":                 "",
		"unix:":               "",
		"10.0.0.1/8":          `"10.0.0.1/8" has bits beyond its length; want 10.0.0.0/8, or 10.0.0.1 for one address`,
		"::ffff:10.0.0.1":     "IPv4 address in IPv6 form",
		"::ffff:10.0.0.0/104": "IPv4 address in IPv6 form",
		"fe80::1%eth0":        "is neither",
		"fe80::%eth0/64":      "is neither",
		"10.0.0.0/33":         "is neither",
		"10.0.0":              "is neither",
		"example.com":         "is neither",
		"unix:/run/x":         "is neither",
		"10.0.0.1:80":         "is neither",
		"":                    "is neither",
	} {
		var all Trusted
		err := all.Add(s)
		if got := ""; err != nil {
			got = err.Error()
			if want == "" || !strings.Contains(got, want) {
				t.Errorf("%q: got %q, want %q", s, got, want)
			}
		} else if want != "" {
			t.Errorf("%q: got no error, want %q", s, want)
		}
	}
}

func TestOrigin(t *testing.T) {
	const proxy = "10.0.0.1:40000"
	lines := func(name string, values ...string) http.Header { return http.Header{name: values} }
	list := func(values ...string) http.Header { return lines("X-Forwarded-For", values...) }
	for name, test := range map[string]struct {
		peer   string
		header http.Header
		want   Origin // zero: the peer is not trusted
	}{
		"no fields":              {proxy, nil, Origin{Client: "10.0.0.1", For: "10.0.0.1"}},
		"one client":             {proxy, list("203.0.113.7"), Origin{Client: "203.0.113.7", For: "203.0.113.7, 10.0.0.1"}},
		"a spoofed list":         {proxy, list("127.0.0.1, 192.0.2.1, 203.0.113.7"), Origin{Client: "203.0.113.7", For: "127.0.0.1, 192.0.2.1, 203.0.113.7, 10.0.0.1"}},
		"spoofed trusted ones":   {proxy, list("192.0.2.1, 10.9.9.9, 203.0.113.7, 10.0.0.2"), Origin{Client: "203.0.113.7", For: "192.0.2.1, 10.9.9.9, 203.0.113.7, 10.0.0.2, 10.0.0.1"}},
		"all are trusted":        {proxy, list("10.0.0.3,10.0.0.2"), Origin{Client: "10.0.0.3", For: "10.0.0.3,10.0.0.2, 10.0.0.1"}},
		"several lines":          {proxy, list("192.0.2.1", "203.0.113.7"), Origin{Client: "203.0.113.7", For: "192.0.2.1, 203.0.113.7, 10.0.0.1"}},
		"a trusted last line":    {proxy, list("203.0.113.7", "10.0.0.2"), Origin{Client: "203.0.113.7", For: "203.0.113.7, 10.0.0.2, 10.0.0.1"}},
		"blank lines":            {proxy, list("", "203.0.113.7", " , "), Origin{Client: "203.0.113.7", For: "203.0.113.7, 10.0.0.1"}},
		"blank elements":         {proxy, list(",203.0.113.7,\t,"), Origin{Client: "203.0.113.7", For: ",203.0.113.7,\t,, 10.0.0.1"}},
		"nothing but garbage":    {proxy, list("unknown"), Origin{Client: "10.0.0.1", For: "unknown, 10.0.0.1"}},
		"garbage before proxies": {proxy, list("203.0.113.7, <script>, 10.0.0.2"), Origin{Client: "10.0.0.2", For: "203.0.113.7, <script>, 10.0.0.2, 10.0.0.1"}},
		"garbage on the left":    {proxy, list("' OR 1=1, 203.0.113.7"), Origin{Client: "203.0.113.7", For: "' OR 1=1, 203.0.113.7, 10.0.0.1"}},
		"a port":                 {proxy, list("203.0.113.7:1234"), Origin{Client: "203.0.113.7", For: "203.0.113.7:1234, 10.0.0.1"}},
		"IPv6":                   {proxy, list("2001:db8::7"), Origin{Client: "2001:db8::7", For: "2001:db8::7, 10.0.0.1"}},
		"IPv6 in brackets":       {proxy, list("[2001:db8::7]"), Origin{Client: "2001:db8::7", For: "[2001:db8::7], 10.0.0.1"}},
		"IPv6 with a port":       {proxy, list("[2001:db8::7]:443"), Origin{Client: "2001:db8::7", For: "[2001:db8::7]:443, 10.0.0.1"}},
		"IPv4 in brackets":       {proxy, list("[203.0.113.7]"), Origin{Client: "10.0.0.1", For: "[203.0.113.7], 10.0.0.1"}},
		"half a bracket":         {proxy, list("[2001:db8::7"), Origin{Client: "10.0.0.1", For: "[2001:db8::7, 10.0.0.1"}},
		"mapped IPv4":            {proxy, list("203.0.113.7, ::ffff:10.0.0.2"), Origin{Client: "203.0.113.7", For: "203.0.113.7, ::ffff:10.0.0.2, 10.0.0.1"}},
		"a zone":                 {proxy, list("fe80::7%x status=200"), Origin{Client: "fe80::7", For: "fe80::7%x status=200, 10.0.0.1"}},
		"octal":                  {proxy, list("010.0.0.2"), Origin{Client: "10.0.0.1", For: "010.0.0.2, 10.0.0.1"}},
		"another field":          {proxy, http.Header{"Forwarded": {"for=203.0.113.7"}, "X-Real-Ip": {"203.0.113.7"}}, Origin{Client: "10.0.0.1", For: "10.0.0.1"}},

		"https":                 {proxy, lines("X-Forwarded-Proto", "HTTPS"), Origin{Client: "10.0.0.1", For: "10.0.0.1", Proto: "https"}},
		"wss":                   {proxy, lines("X-Forwarded-Proto", "wss"), Origin{Client: "10.0.0.1", For: "10.0.0.1", Proto: "wss"}},
		"no scheme":             {proxy, lines("X-Forwarded-Proto", "javascript"), Origin{Client: "10.0.0.1", For: "10.0.0.1"}},
		"the client's scheme":   {proxy, lines("X-Forwarded-Proto", "https", "http"), Origin{Client: "10.0.0.1", For: "10.0.0.1", Proto: "http"}},
		"the same in one line":  {proxy, lines("X-Forwarded-Proto", "https, http"), Origin{Client: "10.0.0.1", For: "10.0.0.1", Proto: "http"}},
		"an empty scheme":       {proxy, lines("X-Forwarded-Proto", "https,"), Origin{Client: "10.0.0.1", For: "10.0.0.1"}},
		"a host":                {proxy, lines("X-Forwarded-Host", "shop.example:8443"), Origin{Client: "10.0.0.1", For: "10.0.0.1", Host: "shop.example:8443"}},
		"the client's host":     {proxy, lines("X-Forwarded-Host", "evil.example, shop.example"), Origin{Client: "10.0.0.1", For: "10.0.0.1", Host: "shop.example"}},
		"a host that is a path": {proxy, lines("X-Forwarded-Host", "evil.example/"), Origin{Client: "10.0.0.1", For: "10.0.0.1"}},

		"from IPv6":                 {"[2001:db8:1::1]:40000", list("203.0.113.7"), Origin{Client: "203.0.113.7", For: "203.0.113.7, 2001:db8:1::1"}},
		"from IPv6 with a zone":     {"[fe80::1%eth0]:40000", list("203.0.113.7"), Origin{Client: "203.0.113.7", For: "203.0.113.7, fe80::1"}},
		"from mapped IPv4":          {"[::ffff:10.0.0.1]:40000", list("203.0.113.7"), Origin{Client: "203.0.113.7", For: "203.0.113.7, 10.0.0.1"}},
		"from somebody else":        {"203.0.113.9:40000", list("10.0.0.1"), Origin{}},
		"from nobody that is known": {"", list("10.0.0.1"), Origin{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := serve(trusted(t, "10.0.0.0/8", "2001:db8:1::/48", "fe80::/10"), test.peer, &net.TCPAddr{}, test.header)
			if ok != (test.want != Origin{}) || got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// A peer of a unix socket is trusted by name, whatever address it gives itself.
func TestUnixSockets(t *testing.T) {
	header := http.Header{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}}
	want := Origin{Client: "203.0.113.7", For: "203.0.113.7", Proto: "https"}
	for _, peer := range []string{"@", "", "10.0.0.1:80"} {
		if got, ok := serve(trusted(t, "10.0.0.0/8", "unix:"), peer, &net.UnixAddr{Net: "unix"}, header); !ok || got != want {
			t.Errorf("%q: got %+v, want %+v", peer, got, want)
		}
		if got, ok := serve(trusted(t, "0.0.0.0/0"), peer, &net.UnixAddr{Net: "unix"}, header); ok {
			t.Errorf("%q: got %+v without unix:", peer, got)
		}
	}
	if got, _ := serve(trusted(t, "unix:"), "@", &net.UnixAddr{Net: "unix"}, nil); got != (Origin{}) {
		t.Errorf("without fields: got %+v", got)
	}
	if got, ok := serve(trusted(t, "unix:"), "10.0.0.1:80", &net.TCPAddr{}, header); ok {
		t.Errorf("over TCP: got %+v with nothing but unix:", got)
	}
}

// However long a list is, few of its elements are looked at, and it is passed on as it is.
func TestHugeList(t *testing.T) {
	long := strings.Repeat("10.0.0.2, ", 100_000) + "10.0.0.3"
	all := trusted(t, "10.0.0.0/8")
	got, _ := serve(all, "10.0.0.1:1", &net.TCPAddr{}, http.Header{"X-Forwarded-For": {"203.0.113.7", long}})
	if got.Client != "10.0.0.2" || got.For != "203.0.113.7, "+long+", 10.0.0.1" {
		t.Errorf("got client %s, and a list of %d bytes", got.Client, len(got.For))
	}
	got, _ = serve(all, "10.0.0.1:1", &net.TCPAddr{}, http.Header{"X-Forwarded-For": {"203.0.113.7" + strings.Repeat(",", 1<<20)}})
	if got.Client != "10.0.0.1" {
		t.Errorf("commas: got client %s, want the peer", got.Client)
	}
}

func TestSet(t *testing.T) {
	for name, test := range map[string]struct {
		origin Origin
		want   string
	}{
		"all":     {Origin{For: "203.0.113.7, 10.0.0.1", Proto: "https", Host: "a.example"}, "203.0.113.7, 10.0.0.1|https|a.example"},
		"nothing": {Origin{}, "|http|b.example"},
	} {
		h := http.Header{"X-Forwarded-For": {"10.0.0.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"b.example"}}
		test.origin.Set(h)
		if got := h.Get("X-Forwarded-For") + "|" + h.Get("X-Forwarded-Proto") + "|" + h.Get("X-Forwarded-Host"); got != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	f.Add("203.0.113.7, 10.0.0.2", "https", "a.example")
	f.Add("[::1%x]:1,,unknown", "https,", "[::1]:80")
	f.Fuzz(func(t *testing.T, list, proto, name string) {
		header := http.Header{"X-Forwarded-For": {list}, "X-Forwarded-Proto": {proto}, "X-Forwarded-Host": {name}}
		o, ok := serve(trusted(t, "10.0.0.0/8"), "10.0.0.1:1", &net.TCPAddr{}, header)
		if _, err := net.ResolveIPAddr("ip", o.Client); !ok || err != nil || strings.Contains(o.Client, "%") {
			t.Errorf("client %q is no address", o.Client)
		}
		if !strings.HasSuffix(o.For, "10.0.0.1") || strings.ContainsAny(o.Host, " /,\r\n\"<") || len(o.Proto) > len("https") {
			t.Errorf("got %+v", o)
		}
	})
}

// serve returns the origin of a request.
func serve(all Trusted, peer string, local net.Addr, header http.Header) (o Origin, ok bool) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = peer
	for name, values := range header {
		r.Header[name] = values
	}
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	all.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { o, ok = From(r.Context()) })).ServeHTTP(httptest.NewRecorder(), r)
	return o, ok
}

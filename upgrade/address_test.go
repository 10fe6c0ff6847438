package upgrade

import (
	"net"
	"strings"
	"testing"
)

func TestResolveAddress(t *testing.T) {
	for in, want := range map[string]string{
		":8080":              "[::]:8080",
		"[::]:8080":          "[::]:8080",
		"0.0.0.0:80":         "0.0.0.0:80",
		"127.0.0.1:http":     "127.0.0.1:80",
		"localhost:80":       "127.0.0.1:80",
		"[::1]:80":           "[::1]:80",
		"[::ffff:1.2.3.4]:":  "",
		"[::ffff:1.2.3.4]:9": "1.2.3.4:9",
		"unix:/a/../b":       "unix:/b",
	} {
		a, err := resolveAddress(in)
		if got := a.String(); want != "" && (err != nil || got != want) {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		} else if want == "" && err == nil {
			t.Errorf("%s: got %s, want an error", in, got)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "missing port",
		"8080":                              "missing port",
		"a:b:c":                             "too many colons",
		"host:":                             `"" is not a port`,
		":70000":                            `"70000" is not a port`,
		":-1":                               `"-1" is not a port`,
		"//host:80":                         `"//host" is not a host`,
		" host:80":                          `" host" is not a host`,
		"unix:":                             "no path",
		"unix:@a":                           "abstract",
		"unix:/" + strings.Repeat("a", 107): "longer than 107 bytes",
	} {
		if err := CheckAddress(in); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "want host:port") {
			t.Errorf("%q: got %v, want an error with %q that says what is wanted", in, err, want)
		}
	}
	for _, in := range []string{":0", "no.such.host:80", "unix:relative"} {
		if err := CheckAddress(in); err != nil {
			t.Errorf("%q: got %v, want none", in, err)
		}
	}
}

func TestCheckDistinct(t *testing.T) {
	for _, test := range []struct {
		addrs []string
		good  bool
	}{
		{[]string{":80", ":81", "127.0.0.1:82", "127.0.0.2:82", "unix:/a", "unix:/b"}, true},
		{[]string{":80", "127.0.0.1:80"}, false},
		{[]string{"[::1]:80", "0.0.0.0:80"}, true},
		{[]string{"0.0.0.0:80", "[::1]:80"}, true},
		{[]string{"0.0.0.0:80", "127.0.0.1:80"}, false},
		{[]string{"0.0.0.0:80", "[::]:80"}, false},
		{[]string{"0.0.0.0:80", ":80"}, false},
		{[]string{"[::1]:80", ":80"}, false},
		{[]string{":0", ":0", "", ""}, true},
		{[]string{":80", "[::]:80"}, false},
		{[]string{"localhost:80", "127.0.0.1:80"}, false},
		{[]string{"unix:/a", "unix:/b/../a"}, false},
	} {
		if err := CheckDistinct(test.addrs...); (err == nil) != test.good {
			t.Errorf("%q: got %v, want good %v", test.addrs, err, test.good)
		}
	}
}

// What releases handed over that listened at 0.0.0.0 on IPv6 too goes on, with a warning.
func TestIsWider(t *testing.T) {
	for _, test := range []struct {
		network, bound, asked string
		want                  bool
	}{
		{"tcp", "0.0.0.0:0", "0.0.0.0:80", true},
		{"tcp4", "0.0.0.0:0", "0.0.0.0:80", false},
		{"tcp4", "0.0.0.0:0", ":80", false},
		{"tcp", ":0", ":80", false},
		{"tcp4", "127.0.0.1:0", "127.0.0.1:80", false},
	} {
		asked, err := resolveAddress(test.asked)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen(test.network, test.bound)
		if err != nil {
			t.Fatal(err)
		}
		if got := isWider(ln, asked); got != test.want {
			t.Errorf("%s %s for %s: got %v, want %v", test.network, test.bound, test.asked, got, test.want)
		}
		ln.Close()
	}
}

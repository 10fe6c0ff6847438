package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"strings"

	"example.com/baton/handlers/forwarded"
	"example.com/baton/handlers/internal/request"
	"golang.org/x/net/http/httpguts"
)

// Rule sends requests whose path the prefix covers to the target.
//
// `/b/` covers all paths that begin with it, and redirects `/b`; `/b` covers
// itself and what is below, but not `/bc`. A target without a path leaves the
// path as it is, but for escapes in the prefix that need not be; one with a path
// puts that in place of the prefix, with exactly one slash between the two.
//
// The target of a backend that listens on a unix socket has the scheme unix and the path of the
// socket, and leaves the path of requests as it is. Several rules with the same prefix lead to
// several backends, of which each request goes to one.
type Rule struct {
	Prefix string
	Target *url.URL
}

// ParseRule reads PREFIX=URL. The prefix is a path in plain text, without
// escapes; the URL is http or https and has no more than host, port and path, or is unix:PATH
// with the absolute path of a socket.
//
// An error names the prefix, but nothing of the URL: there may be a password in it,
// also where none belongs.
func ParseRule(s string) (Rule, error) {
	prefix, target, found := strings.Cut(s, "=")
	if !found {
		return Rule{}, errors.New("parse proxy rule: no '=': expected PREFIX=URL, such as /api/=http://127.0.0.1:3000")
	}
	if err := checkPrefix(prefix); err != nil {
		if strings.Contains(prefix, "@") { // it is part of the URL
			prefix = "…"
		}
		return Rule{}, fmt.Errorf("parse proxy rule: prefix %q %w", prefix, err)
	}
	if socket, isUnix := strings.CutPrefix(target, "unix:"); isUnix {
		if err := checkSocket(socket); err != nil {
			return Rule{}, fmt.Errorf("parse proxy rule for %q: unix socket %w", prefix, err)
		}
		return Rule{prefix, &url.URL{Scheme: "unix", Path: socket}}, nil
	}
	u, err := url.Parse(target)
	if err != nil { // quotes it
		return Rule{}, fmt.Errorf("parse proxy rule for %q: URL is invalid: expected such as http://127.0.0.1:3000", prefix)
	}
	if err := checkTarget(u); err != nil {
		return Rule{}, fmt.Errorf("parse proxy rule for %q: URL %w", prefix, err)
	}
	return Rule{prefix, u}, nil
}

func checkPrefix(prefix string) error {
	switch {
	case !strings.HasPrefix(prefix, "/"):
		return errors.New("does not begin with '/'")
	case strings.ContainsAny(prefix, "?#%"):
		return errors.New("is more than a path in plain text: expected no '?', '#' or '%'")
	case prefix != "/" && path.Clean(prefix) != strings.TrimSuffix(prefix, "/"):
		return errors.New("has empty or dot elements")
	}
	if paths, _ := readings(prefix); len(paths) != 1 {
		return errors.New("has ';', '\\' or control characters, which servers read in different ways")
	}
	return nil
}

func checkTarget(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("is none of http, https and unix: expected such as http://127.0.0.1:3000 or unix:/run/app.sock")
	case u.Hostname() == "":
		return errors.New("has no host: expected such as http://127.0.0.1:3000")
	case u.User != nil:
		return errors.New("has a user: credentials are not sent to backends")
	case u.RawQuery != "" || u.ForceQuery:
		return errors.New("has a query: the client's is passed on")
	case u.Fragment != "":
		return errors.New("has a fragment, which no request carries")
	case dotted(u.Path):
		return errors.New("has dot elements in its path")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("has an invalid port: expected 1 to 65535")
		}
	}
	return nil
}

// maxSocket is the size of sun_path, without the byte that ends it: unix(7).
const maxSocket = 107

func checkSocket(path string) error {
	switch {
	case !strings.HasPrefix(path, "/"):
		return errors.New("has no absolute path: expected such as unix:/run/app.sock")
	case len(path) > maxSocket:
		return fmt.Errorf("has a path of more than %d bytes", maxSocket)
	case strings.ContainsRune(path, 0):
		return errors.New("has a zero byte in its path")
	}
	return nil
}

// CheckRules reports why rules cannot be those of one proxy: of the same prefix, two have the same
// target, or put different paths in its place. It does not check each rule for itself, as ParseRule does.
func CheckRules(rules []Rule) error {
	for i, rule := range rules {
		for _, before := range rules[:i] {
			switch {
			case rule.Prefix != before.Prefix:
			case rule.Name() == before.Name():
				return fmt.Errorf("prefix %q has the backend %s twice", rule.Prefix, rule.Name())
			case rule.base() != before.base():
				return fmt.Errorf("prefix %q has backends with different paths in their URLs: expected the same path in all", rule.Prefix)
			}
		}
	}
	return nil
}

// Name returns the name of the rule's backend in logs and metrics: scheme and host of an URL,
// or unix: and the path of a socket.
func (rule Rule) Name() string {
	if rule.isUnix() {
		return "unix:" + rule.Target.Path
	}
	return rule.Target.Scheme + "://" + rule.Target.Host
}

func (rule Rule) isUnix() bool { return rule.Target.Scheme == "unix" }

// Address returns where the rule's backend is, as net.Dial takes it.
func (rule Rule) Address() (network, address string) {
	if rule.isUnix() {
		return "unix", rule.Target.Path
	}
	host, port := rule.Target.Hostname(), rule.Target.Port()
	if ascii, err := httpguts.PunycodeHostPort(host); err == nil {
		host = ascii
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[rule.Target.Scheme]
	}
	return "tcp", net.JoinHostPort(host, port)
}

// path returns what the target puts in place of the prefix, nothing if that stays.
func (rule Rule) path() string {
	if rule.isUnix() {
		return ""
	}
	return rule.Target.Path
}

func (rule Rule) covers(path string) bool { return covers(rule.Prefix, path) }

func covers(prefix, path string) bool {
	rest, found := strings.CutPrefix(path, prefix)
	return found && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}

// rest returns what follows the prefix in the path of u, which rule covers: nothing,
// or a slash and more. It is escaped as the client has sent it.
func (rule Rule) rest(u *url.URL) string {
	cut := len(strings.TrimSuffix(rule.Prefix, "/"))
	if len(u.Path) == cut {
		return ""
	}
	return "/" + skip(sentPath(u), cut+1)
}

// base returns what a backend gets in place of the prefix, escaped. Without a path
// in the target that is the prefix itself, and not what the client has sent for it,
// such as /%70ublic: some backends do not decode paths.
func (rule Rule) base() string {
	if rule.path() != "" {
		return rule.Target.EscapedPath()
	}
	return (&url.URL{Path: rule.Prefix}).EscapedPath()
}

// join returns base and rest with one slash between them.
func join(base, rest string) string {
	if rest == "" {
		return base
	}
	return strings.TrimSuffix(base, "/") + rest
}

// origin returns the scheme of requests to the backend, and their Host if the client gives none.
func (rule Rule) origin() (scheme, host string) {
	if rule.isUnix() {
		return "http", "localhost"
	}
	return rule.Target.Scheme, rule.Target.Host
}

func (rule Rule) rewrite(r *httputil.ProxyRequest) {
	out := r.Out.URL
	out.Scheme, out.Host = rule.origin()
	out.RawPath = join(rule.base(), rule.rest(r.In.URL))
	out.Path, _ = url.PathUnescape(out.RawPath) // both parts have been parsed before
	out.RawQuery = r.In.URL.RawQuery            // as it is, even where Go could not parse it: Baton does not look at it
	passTrailers(r.Out, r.In)
	if r.Out.Body != nil {
		r.Out.Body = &clientBody{ReadCloser: r.Out.Body}
	}
	removeAmbiguous(r.Out.Header)
	// What Baton sets stays, whatever the client's Connection names.
	r.SetXForwarded()
	if origin, ok := forwarded.From(r.In.Context()); ok {
		origin.Set(r.Out.Header)
	}
	if id, ok := r.In.Header[request.IDHeader]; ok {
		r.Out.Header[request.IDHeader] = id
	}
	if r.In.ProtoAtLeast(1, 1) {
		keepProtocol(r.Out.Header)
	} else {
		r.Out.Header.Del("Expect") // to be ignored: RFC 9110, section 10.1.1
	}
}

// skip returns escaped without its first n characters, an escape being one.
func skip(escaped string, n int) string {
	for ; n > 0 && escaped != ""; n-- {
		if escaped[0] == '%' {
			escaped = escaped[3:]
		} else {
			escaped = escaped[1:]
		}
	}
	return escaped
}

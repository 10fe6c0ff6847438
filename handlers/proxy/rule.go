package proxy

import (
	"errors"
	"fmt"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"strings"

	"example.com/baton/handlers/internal/request"
)

// Rule sends requests whose path the prefix covers to the target.
//
// `/b/` covers all paths that begin with it, and redirects `/b`; `/b` covers
// itself and what is below, but not `/bc`. A target without a path leaves the
// path as it is, but for escapes in the prefix that need not be; one with a path
// puts that in place of the prefix, with exactly one slash between the two.
type Rule struct {
	Prefix string
	Target *url.URL
}

// ParseRule reads PREFIX=URL. The prefix is a path in plain text, without
// escapes; the URL is http or https and has no more than host, port and path.
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
		return errors.New("is neither http nor https: expected such as http://127.0.0.1:3000")
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
	if rule.Target.Path != "" {
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

func (rule Rule) rewrite(r *httputil.ProxyRequest) {
	out := r.Out.URL
	out.Scheme, out.Host = rule.Target.Scheme, rule.Target.Host
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

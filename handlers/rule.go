// Proxy rules: PREFIX=URL, what a prefix covers and what becomes of the path.

package handlers

import (
	"errors"
	"fmt"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// ProxyRule sends requests whose path the prefix covers to the target.
//
// `/b/` covers all paths that begin with it, and redirects `/b`; `/b` covers
// itself and what is below, but not `/bc`. A target without a path leaves the
// path as it is; one with a path puts that in place of the prefix, with exactly
// one slash between the two.
type ProxyRule struct {
	Prefix string
	Target *url.URL
}

// ParseProxyRule reads PREFIX=URL. The prefix is a path in plain text, without
// escapes; the URL is http or https and has no more than host, port and path.
func ParseProxyRule(s string) (ProxyRule, error) {
	prefix, target, found := strings.Cut(s, "=")
	if !found {
		return ProxyRule{}, fmt.Errorf("parse proxy rule %q: no '=': expected PREFIX=URL, such as /api/=http://127.0.0.1:3000", s)
	}
	if err := checkPrefix(prefix); err != nil {
		return ProxyRule{}, fmt.Errorf("parse proxy rule %q: prefix %q: %w", s, prefix, err)
	}
	u, err := url.Parse(target)
	if err != nil {
		return ProxyRule{}, fmt.Errorf("parse proxy rule %q: %w", s, err)
	}
	if err := checkTarget(u); err != nil {
		return ProxyRule{}, fmt.Errorf("parse proxy rule %q: URL %q: %w", s, u.Redacted(), err)
	}
	return ProxyRule{prefix, u}, nil
}

func checkPrefix(prefix string) error {
	switch {
	case !strings.HasPrefix(prefix, "/"):
		return errors.New("does not begin with '/'")
	case strings.ContainsAny(prefix, "?#%"):
		return errors.New("is more than a path in plain text: expected no '?', '#' or '%'")
	case prefix != "/" && path.Clean(prefix) != strings.TrimSuffix(prefix, "/"):
		return fmt.Errorf("has empty or dot elements: expected %q", path.Clean(prefix))
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
			return fmt.Errorf("has port %q: expected 1 to 65535", port)
		}
	}
	return nil
}

func (rule ProxyRule) covers(path string) bool {
	rest, found := strings.CutPrefix(path, rule.Prefix)
	return found && (rest == "" || rest[0] == '/' || strings.HasSuffix(rule.Prefix, "/"))
}

func (rule ProxyRule) rewrite(r *httputil.ProxyRequest) {
	out := r.Out.URL
	out.Scheme, out.Host = rule.Target.Scheme, rule.Target.Host
	if rule.Target.Path != "" {
		// Decoded and escaped path alike, so that what is %2F stays %2F.
		cut := len(strings.TrimSuffix(rule.Prefix, "/"))
		out.Path, out.RawPath = rule.Target.Path, rule.Target.EscapedPath()
		if len(r.In.URL.Path) > cut {
			out.Path = strings.TrimSuffix(out.Path, "/") + "/" + r.In.URL.Path[cut+1:]
			out.RawPath = strings.TrimSuffix(out.RawPath, "/") + "/" + skip(r.In.URL.EscapedPath(), cut+1)
		}
	}
	out.RawQuery = r.In.URL.RawQuery // as it is, even where Go could not parse it: Baton does not look at it
	r.Out.Trailer = r.In.Trailer     // not a copy: its values come after the body
	if r.Out.Body != nil {
		r.Out.Body = &clientBody{ReadCloser: r.Out.Body}
	}
	r.SetXForwarded()
	if r.In.ProtoAtLeast(1, 1) {
		keepProtocol(r.Out.Header)
	} else { // has no upgrades: RFC 9110, section 7.8
		r.Out.Header.Del("Connection")
		r.Out.Header.Del("Upgrade")
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

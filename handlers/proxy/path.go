package proxy

import (
	"net/url"
	"path"
	"strconv"
	"strings"
)

// maxReadings and maxReadingBytes bound the readings of a path, and with them the time that they take.
// Paths that mean something have a few dozens at most.
const (
	maxReadings     = 256
	maxReadingBytes = 1 << 18
)

// readings returns all that a backend may make of an escaped path: the results of
// any of steps, in any order and number. Servers differ in which they take, and in
// which order: nginx decodes, merges slashes and resolves dots; Tomcat removes
// parameters, then decodes; Go, Express and Node.js do less; an application may
// decode once more what its server has decoded. It returns false if there are too many.
func readings(escaped string) (all []string, ok bool) {
	seen := map[string]bool{escaped: true}
	all = []string{escaped}
	size := len(escaped)
	for i := 0; i < len(all); i++ {
		for _, step := range steps {
			next := step(all[i])
			if seen[next] {
				continue
			}
			if size += len(next); size > maxReadingBytes || len(all) == maxReadings {
				return nil, false
			}
			seen[next] = true
			all = append(all, next)
		}
	}
	return all, true
}

// steps each return a path that begins with a slash, shorter or with fewer
// backslashes than the one that they get, or that one.
var steps = []func(string) string{decode, decodeInElements, removeParameters, slashes, mergeSlashes,
	resolveDots, clean, removeAuthority, truncate, removeControls, decodeOverlong, narrow.Replace}

// isLiteral reports whether none of steps changes anything in an escaped path.
func isLiteral(escaped string) bool {
	return !strings.ContainsAny(escaped, `%;\`) && !strings.Contains(escaped, "//") && !strings.Contains(escaped, "/.")
}

func decode(path string) string { return unescape(path, true) }

// decodeInElements leaves %2F, as those do who split a path before they decode it,
// and those who do not decode it but know %2e.
func decodeInElements(path string) string { return unescape(path, false) }

func unescape(path string, slashes bool) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			c, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
			if err == nil && (c != '/' || slashes) {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// removeParameters is what Java servers do with `;jsessionid=1`.
func removeParameters(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(path, ";")
		b.WriteString(before)
		slash := strings.IndexByte(after, '/')
		if !found || slash < 0 {
			return b.String()
		}
		path = after[slash:]
	}
}

func slashes(path string) string { return strings.ReplaceAll(path, `\`, "/") }

func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	var b strings.Builder
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b.WriteByte(path[i])
		}
	}
	return b.String()
}

// resolveDots does what RFC 3986, section 5.2.4, says. An empty element is one as
// any other to it.
func resolveDots(path string) string {
	if !strings.Contains(path, "/.") {
		return path
	}
	var kept []string
	elements := strings.Split(path[1:], "/")
	for i, element := range elements {
		switch element {
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		case ".":
		default:
			kept = append(kept, element)
			continue
		}
		if i == len(elements)-1 {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}

// clean does what Go's ServeMux does, where `/a/b/..` becomes /a and not /a/.
func clean(s string) string {
	if strings.HasSuffix(s, "/") {
		return s
	}
	return path.Clean(s)
}

// removeAuthority takes `//a/b` for a reference to /b at a, as new URL of Node.js does, to which
// further slashes before the a mean nothing.
func removeAuthority(path string) string {
	rest, found := strings.CutPrefix(path, "//")
	if !found {
		return path
	}
	_, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
	return "/" + rest
}

// truncate ends a path where one ends in C, and where its query begins.
func truncate(path string) string {
	if end := strings.IndexAny(path, "\x00?#"); end >= 0 {
		return path[:end]
	}
	return path
}

// removeControls removes control characters, as browsers do, and spaces at the end of
// an element, as Windows does.
func removeControls(path string) string {
	elements := strings.Split(path, "/")
	for i, element := range elements {
		elements[i] = strings.TrimRight(element, " ")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.Join(elements, "/"))
}

// decodeOverlong decodes ASCII that was written as longer UTF-8 than it needs, which
// RFC 3629, section 3, forbids, and careless decoders accept.
func decodeOverlong(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		length := 0
		switch c := path[i]; {
		case c == 0xc0 || c == 0xc1:
			length = 2
		case c == 0xe0:
			length = 3
		case c == 0xf0:
			length = 4
		}
		if length == 0 || i+length > len(path) {
			b.WriteByte(path[i])
			continue
		}
		value := rune(path[i]) & 1 // the only bit of a lead byte that is left for ASCII
		for _, c := range []byte(path[i+1 : i+length]) {
			value = value<<6 | rune(c&0x3f)
		}
		if value >= 0x80 {
			b.WriteByte(path[i])
			continue
		}
		b.WriteByte(byte(value))
		i += length - 1
	}
	return b.String()
}

// narrow does what Windows and Unicode's compatibility forms do to other dots and slashes.
var narrow = strings.NewReplacer("\uff0e", ".", "\u2024", ".", "\uff0f", "/", "\uff3c", `\`, "\uff1b", ";", "\uff05", "%")

// sentPath returns the path of u, as a client has sent it, with its own escapes. As
// (*url.URL).EscapedPath it escapes what must be, but nothing else.
func sentPath(u *url.URL) string {
	if escaped := u.EscapedPath(); u.RawPath == "" || escaped == u.RawPath {
		return escaped
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(u.RawPath) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~!$&'()*+,;=:@[]/%", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

package reply

import (
	"strconv"
	"strings"
)

// Preference returns the weight that the header's most specific entry among
// names gives, and how specific that entry is: 0 for none, 1 for the last of
// names, up to len(names) for the first (RFC 9110, 12.5.1).
func Preference(header []string, names ...string) (q float64, specific int) {
	for _, line := range header {
		for entry := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(entry, ";")
			name = strings.TrimSpace(name)
			for i, want := range names {
				if rank := len(names) - i; rank > specific && strings.EqualFold(name, want) {
					q, specific = weight(params), rank
				}
			}
		}
	}
	return q, specific
}

// weight returns the q among params, 1 without one and 0 for one that is no number.
func weight(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil || !(q >= 0 && q <= 1) {
				return 0
			}
			return q
		}
	}
	return 1
}

// PrefersHTML reports whether an answer should be HTML rather than JSON: the
// client names HTML and likes it no less. `*/*`, as curl sends it, means JSON.
func PrefersHTML(accept []string) bool {
	html, specific := Preference(accept, "text/html", "text/*", "*/*")
	json, _ := Preference(accept, "application/json", "application/*", "*/*")
	return html > 0 && (html > json || html == json && specific == 3)
}

// AcceptsGzip leaves `*` out on purpose: so does the library that compresses.
func AcceptsGzip(acceptEncoding []string) bool {
	q, _ := Preference(acceptEncoding, "gzip")
	return q > 0
}

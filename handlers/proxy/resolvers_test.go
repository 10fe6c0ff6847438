package proxy

import (
	"net/url"
	"path"
	"strings"
)

// resolvers are what servers make of a request's target. None that is "" is refused.
var resolvers = map[string]func(target string) string{
	"nginx": func(target string) string {
		decoded, err := url.PathUnescape(target)
		if err != nil || strings.Contains(decoded, "\x00") {
			return ""
		}
		return withinRoot(manySlashes.ReplaceAllString(decoded, "/"))
	},
	"Go's mux": func(target string) string {
		decoded, err := url.PathUnescape(target)
		if err != nil {
			return ""
		}
		cleaned := path.Clean(decoded)
		if strings.HasSuffix(decoded, "/") && cleaned != "/" {
			cleaned += "/"
		}
		return cleaned
	},
	"Express": func(target string) string { return target }, // matches what was sent
	"Express, new URL": func(target string) string {
		target = strings.ReplaceAll(target, `\`, "/")
		if strings.HasPrefix(target, "//") {
			_, target, _ = strings.Cut(strings.TrimLeft(target, "/"), "/")
			target = "/" + target
		}
		var kept []string
		elements := strings.Split(target[1:], "/")
		for i, element := range elements {
			dots := strings.ReplaceAll(strings.ToLower(element), "%2e", ".")
			last := i == len(elements)-1
			if dots == ".." && len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
			if dots != "." && dots != ".." {
				kept = append(kept, element)
			} else if last {
				kept = append(kept, "")
			}
		}
		return "/" + strings.Join(kept, "/")
	},
	"Tomcat":                           func(target string) string { return tomcat(target, true) },
	"Tomcat, encodedSolidus=reject":    func(target string) string { return tomcat(target, false) },
	"a servlet that decodes once more": func(target string) string { return tomcat(decode(tomcat(target, true)), true) },
	"an application behind nginx that decodes once more": func(target string) string {
		decoded, err := url.PathUnescape(target)
		if err != nil {
			return ""
		}
		decoded, err = url.PathUnescape(decoded)
		if err != nil {
			return ""
		}
		return withinRoot(decoded)
	},
	"Apache, AllowEncodedSlashes NoDecode": func(target string) string {
		parts := encodedSlash.Split(target, -1)
		for i := range parts {
			var err error
			if parts[i], err = url.PathUnescape(parts[i]); err != nil {
				return ""
			}
		}
		return withinRoot(strings.Join(parts, "%2F"))
	},
	"Windows": func(target string) string {
		decoded, err := url.PathUnescape(target)
		if err != nil {
			return ""
		}
		elements := strings.Split(strings.ReplaceAll(decoded, `\`, "/"), "/")
		for i := range elements {
			elements[i] = strings.TrimRight(elements[i], " ")
		}
		return withinRoot(strings.Join(elements, "/"))
	},
	"a careless decoder of UTF-8": func(target string) string {
		decoded, err := url.PathUnescape(target)
		if err != nil {
			return ""
		}
		return withinRoot(strings.NewReplacer("\xc0\xae", ".", "\xc0\xaf", "/", "\xe0\x80\xae", ".", "\xf0\x80\x80\xae", ".").Replace(decoded))
	},
	"C": func(target string) string {
		decoded, err := url.PathUnescape(target)
		if err != nil {
			return ""
		}
		decoded, _, _ = strings.Cut(decoded, "\x00")
		return withinRoot(decoded)
	},
}

func tomcat(target string, slashes bool) string {
	if target == "" || !slashes && strings.Contains(strings.ToLower(target), "%2f") {
		return ""
	}
	decoded, err := url.PathUnescape(parameters.ReplaceAllString(target, ""))
	if err != nil || strings.Contains(decoded, "\x00") {
		return ""
	}
	return withinRoot(manySlashes.ReplaceAllString(strings.ReplaceAll(decoded, `\`, "/"), "/"))
}

// withinRoot resolves dots, and refuses what leads out of the root.
func withinRoot(decoded string) string {
	var kept []string
	elements := strings.Split(decoded, "/")
	for i, element := range elements[1:] {
		switch {
		case element == ".." && len(kept) == 0:
			return ""
		case element == "..":
			kept = kept[:len(kept)-1]
		case element == "." || element == "" && i < len(elements)-2:
		default:
			kept = append(kept, element)
			continue
		}
		if i == len(elements)-2 {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}

package request

const IDHeader = "X-Request-Id"

func ValidID(id string) bool {
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return id != "" && len(id) <= 64
}

// Shorten bounds what a client can put into a log line.
func Shorten(s string) string {
	if len(s) > 256 {
		return s[:256] + "…"
	}
	return s
}

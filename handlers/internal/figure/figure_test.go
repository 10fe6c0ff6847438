package figure

import (
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

// The script has functions of the same names, with the same results.
func TestFigures(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		testserver.Equal(t, "number", Number(n), want)
	}
	testserver.Equal(t, "one", Plural(1, "request"), "1 request")
	testserver.Equal(t, "none", Plural(0, "request"), "0 requests")
	for seconds, want := range map[float64]string{0: "0.0 ms", .0094: "9.4 ms", .0096: "10 ms", .25: "250 ms", 1: "1.0 s", 9.9: "9.9 s", 12.7: "12 s"} {
		testserver.Equal(t, "duration", Duration(seconds), want)
	}
	for seconds, want := range map[float64]string{59.9: "59 s", 60: "1 min", 61: "1 min 1 s", 601: "10 min", 3600: "1 h", 3660: "1 h 1 min", 172799: "47 h 59 min", 172800: "2 days"} {
		testserver.Equal(t, "span", Span(seconds), want)
	}
	testserver.Equal(t, "ratio", Ratio(3, 2810), "0.1 %")
	testserver.Equal(t, "ratio of all", Ratio(7, 7), "100.0 %")
	testserver.Equal(t, "ratio of none", Ratio(0, 0), "–")
}

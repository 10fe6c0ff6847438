package figure

import (
	"fmt"
	"strconv"
)

// Number writes a number with a comma before each three digits.
func Number[T int | uint64](n T) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Plural writes a number of things.
func Plural[T int | uint64](n T, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return Number(n) + " " + noun
}

// Duration writes a short time: 9.5 ms, 250 ms, 1.2 s.
func Duration(seconds float64) string {
	fixed := func(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	switch {
	case seconds < .0095:
		return fixed(seconds*1000, 1) + " ms"
	case seconds < .9995:
		return fixed(seconds*1000, 0) + " ms"
	case seconds < 9.95:
		return fixed(seconds, 1) + " s"
	}
	return Span(seconds)
}

// Span writes a time of seconds or more: 12 s, 1 min 1 s, 10 min, 1 h 1 min, 2 days.
func Span(seconds float64) string {
	two := func(s, unit int, name, smaller string, rest int) string {
		text := strconv.Itoa(s/unit) + name
		if rest > 0 {
			text += " " + strconv.Itoa(rest) + smaller
		}
		return text
	}
	switch s := int(seconds); {
	case s < 60:
		return strconv.Itoa(s) + " s"
	case s < 600:
		return two(s, 60, " min", " s", s%60)
	case s < 3600:
		return two(s, 60, " min", "", 0)
	case s < 172800:
		return two(s, 3600, " h", " min", s%3600/60)
	default:
		return strconv.Itoa(s/86400) + " days"
	}
}

// Ratio writes a part of a number in percent, or – of none.
func Ratio(part, of uint64) string {
	if of == 0 {
		return "–"
	}
	return strconv.FormatFloat(100*float64(part)/float64(of), 'f', 1, 64) + " %"
}

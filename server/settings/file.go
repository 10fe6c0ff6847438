package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// parseFile reads a configuration file to its end, so that one bad line does
// not hide the next. A name without a value, or with "", sets the empty value.
func parseFile(r io.Reader, set func(name, value string) error) error {
	const limit = 1 << 20
	text, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return fmt.Errorf("read the configuration file: %w", err)
	}
	if len(text) == limit {
		return fmt.Errorf("configuration file is larger than %d bytes", limit)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // of some editors
	var problems []error
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if i := strings.IndexFunc(line, isNoText); i >= 0 {
			problems = append(problems, fmt.Errorf("configuration file, line %d: %q is not text; want UTF-8 without control characters", number, fmt.Sprintf("%.20s", line[i:])))
			continue
		}
		if i := commentAt(line); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		value := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), fields[0]))
		if value == `""` {
			value = ""
		}
		if err := set(strings.TrimLeft(fields[0], "-"), value); err != nil {
			problems = append(problems, fmt.Errorf("configuration file, line %d: %w", number, err))
		}
	}
	return errors.Join(problems...)
}

// isNoText tells what no line of a configuration file has: bytes of another encoding, or
// of a file that was not written to its end.
func isNoText(r rune) bool { return r == utf8.RuneError || unicode.IsControl(r) && r != '\t' }

// commentAt returns where a comment begins: at a # at the beginning or after white space;
// -1 without one.
func commentAt(line string) int {
	space := true
	for i, r := range line {
		if r == '#' && space {
			return i
		}
		space = unicode.IsSpace(r)
	}
	return -1
}

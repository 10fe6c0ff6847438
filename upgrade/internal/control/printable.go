package control

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// unmarshalPrintable is json.Unmarshal of what another process sends and a person will
// read: nothing in it moves the cursor, begins a line, or changes the direction of the
// text. What is not printable becomes an escape sequence of Go.
func unmarshalPrintable(text []byte, v any) error {
	var raw any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&raw); err != nil {
		return err
	}
	clean, err := json.Marshal(printableValue(raw))
	if err != nil {
		return err
	}
	return json.Unmarshal(clean, v)
}

func printableValue(v any) any {
	switch v := v.(type) {
	case string:
		return printable(v)
	case []any:
		for i := range v {
			v[i] = printableValue(v[i])
		}
	case map[string]any:
		clean := make(map[string]any, len(v))
		for key, value := range v {
			clean[printable(key)] = printableValue(value)
		}
		return clean
	}
	return v
}

func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\t':
			b.WriteByte(' ') // of a stack, say
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

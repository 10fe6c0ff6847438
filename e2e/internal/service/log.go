package service

import (
	"os"
	"path/filepath"
	"strings"
)

func (b *Baton) LogPath() string { return filepath.Join(b.Dir, "stderr") }

// Log returns what all generations have written to stderr.
func (b *Baton) Log() string {
	log, _ := os.ReadFile(b.LogPath())
	return string(log)
}

// WithoutRequests leaves out the access log, which drowns everything else under load.
func WithoutRequests(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"msg":"request"`) && !strings.Contains(line, "request method=") { // the latter in the journal
			b.WriteString(line)
		}
	}
	return b.String()
}

func Tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if skip := len(all) - lines; skip > 0 {
		all = all[skip:]
	}
	for i, line := range all {
		if len(line) > 600 {
			all[i] = line[:600] + "…"
		}
	}
	return strings.Join(all, "\n")
}

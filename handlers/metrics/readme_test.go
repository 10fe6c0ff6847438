package metrics

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/baton/upgrade"
)

// README has each metric. Of several in one row it names all but the first by their ends.
func TestReadmeHasEachMetric(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics()
	m.Ready(time.Second)
	m.PredecessorDrained(upgrade.Drained{Seconds: 1})
	whole, _ := scrape(t, m)
	names := regexp.MustCompile(`(?m)^# TYPE (baton_\w+)`).FindAllStringSubmatch(whole, -1)
	for _, name := range names {
		parts := strings.Split(name[1], "_")
		spellings := []string{strings.Join(parts, "_")}
		for i := range parts {
			spellings = append(spellings, "…_"+strings.Join(parts[i:], "_"))
		}
		if !regexp.MustCompile("`("+strings.Join(spellings, "|")+")[`{]").Match(readme) && !abbreviated(string(readme), name[1]) {
			t.Errorf("README does not name %s", name[1])
		}
	}
	if len(names) < 20 {
		t.Errorf("got %d metrics, want 20 or more", len(names))
	}
}

// abbreviated reports whether README names a metric by its middle, with an ellipsis at both ends.
func abbreviated(readme, name string) bool {
	for _, match := range regexp.MustCompile("`…(_\\w+_)…`").FindAllStringSubmatch(readme, -1) {
		if strings.Contains(name, match[1]) {
			return true
		}
	}
	return false
}

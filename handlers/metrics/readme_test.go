package metrics

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/baton/upgrade"
)

// README has each metric. An ellipsis stands for what the one before it begins or ends with.
func TestReadmeHasEachMetric(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics()
	m.Ready(time.Second)
	m.PredecessorDrained(upgrade.Drained{Seconds: 1})
	whole, _ := scrape(t, m)
	var spellings []string
	for _, spelling := range regexp.MustCompile("`((?:…_)?\\w+…?)[`{]").FindAllStringSubmatch(string(readme), -1) {
		spellings = append(spellings, strings.ReplaceAll(spelling[1], "…", `\w+`))
	}
	named := regexp.MustCompile("^(" + strings.Join(spellings, "|") + ")$")
	names := regexp.MustCompile(`(?m)^# TYPE (baton_\w+)`).FindAllStringSubmatch(whole, -1)
	for _, name := range names {
		if !named.MatchString(name[1]) {
			t.Errorf("README does not name %s", name[1])
		}
	}
	if len(names) < 20 {
		t.Errorf("got %d metrics, want 20 or more", len(names))
	}
}

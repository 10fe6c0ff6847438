package upgrade

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"example.com/baton/upgrade/internal/link"
)

// What package link carries without a look at it is understood to the last field, as releases have sent it, and
// what this one sends is the same: its golden messages hold it.
func TestGoldenMessages(t *testing.T) {
	paths, err := filepath.Glob("internal/link/testdata/v*/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden messages: %v", err)
	}
	current := map[string]int{"upgrades": 0, "load": 0, "outcomes": 0, "trial": 0, "drained": 0, "overrides": 0} // how often each is in this version's
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Hello struct {
				Upgrades json.RawMessage
			}
			Report struct {
				Load, Outcomes, Trial json.RawMessage
			}
			Drained, Overrides json.RawMessage
		}
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		for name, part := range map[string]struct {
			text json.RawMessage
			into any
		}{
			"upgrades":  {m.Hello.Upgrades, new([]Upgrade)},
			"load":      {m.Report.Load, new(Load)},
			"outcomes":  {m.Report.Outcomes, new(Outcomes)},
			"trial":     {m.Report.Trial, new(TrialStatus)},
			"drained":   {m.Drained, new(Drained)},
			"overrides": {m.Overrides, new(Overrides)},
		} {
			if part.text == nil {
				continue
			}
			d := json.NewDecoder(bytes.NewReader(part.text))
			d.DisallowUnknownFields()
			if err := d.Decode(part.into); err != nil {
				t.Errorf("%s: %s: %v", path, name, err)
			}
			if filepath.Base(filepath.Dir(path)) != "v"+link.Protocol {
				continue
			}
			current[name]++
			if got := encode(part.into); !bytes.Equal(got, part.text) {
				t.Errorf("%s: %s:\ngot  %s\nwant %s", path, name, got, part.text)
			}
		}
	}
	for name, n := range current {
		if n == 0 {
			t.Errorf("no golden message of this version has %s", name)
		}
	}
}

package link

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// golden returns a message of each type and version, as releases have sent them.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/v*/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden messages: %v", err)
	}
	messages := make(map[string][]byte)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		messages[path] = bytes.TrimSpace(text)
	}
	return messages
}

// Whatever a release has sent is understood to the last field, and sent the same.
func TestGoldenMessages(t *testing.T) {
	types := map[string]map[Type]bool{"v1": {}, "v2": {}, "v3": {}, "v4": {}}
	for path, text := range golden(t) {
		t.Run(path, func(t *testing.T) {
			var m Message
			d := json.NewDecoder(bytes.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&m); err != nil {
				t.Fatal(err)
			}
			types[filepath.Base(filepath.Dir(path))][m.Type] = true
			got, err := m.encode()
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("got  %s, %v\nwant %s", got, err, text)
			}
		})
	}
	first := []Type{TypeHello, TypeQuestion, TypeReport, TypeServing, TypeDrained, TypeUpgrade, TypeStop}
	second := append(first, TypeOffer, TypeTaken, TypePredecessor)
	third := append(second, TypeTransfer)
	fourth := append(third, TypePrepared, TypeTakeOver, TypeCommit, TypeTakeBack, TypeReturning)
	for version, want := range map[string][]Type{"v1": first, "v2": second, "v3": third, "v4": fourth} {
		for _, kind := range want {
			if !types[version][kind] {
				t.Errorf("%s has no message of type %s", version, kind)
			}
		}
	}
}

// What golden messages leave out is left out: a release of the past would not know it.
func TestZeroMessage(t *testing.T) {
	for want, m := range map[string]Message{
		`{"type":"stop"}`:    {Type: TypeStop},
		`{"type":"upgrade"}`: {Type: TypeUpgrade},
		`{"type":"report","report":{"state":"","load":null}}`: {Type: TypeReport, Report: new(Report)},
	} {
		got, err := json.Marshal(m)
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}

package settings

import (
	"os"
	"regexp"
	"testing"
)

// README has each setting.
func TestReadmeHasEachSetting(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range new(reader).table() {
		if !regexp.MustCompile("`-" + s.name + "[` ]").Match(readme) {
			t.Errorf("README does not name -%s", s.name)
		}
	}
}

package embed

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// What README links, and where it says that something is changed, is there.
func TestReadmeNamesFilesThatExist(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, pattern := range []string{
		`\]\(([^):]+)\)`, // a link that is no URL
		"`((?:server|upgrade|handlers|systemd|e2e|\\.ci)/[^`* ]*)`", // a path
	} {
		for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(readme, -1) {
			named++
			if _, err := os.Stat(filepath.Join("../..", string(match[1]))); err != nil {
				t.Error(err)
			}
		}
	}
	if named < 20 {
		t.Errorf("got %d files that README names, want 20 or more", named)
	}
}

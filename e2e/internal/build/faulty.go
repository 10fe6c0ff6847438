package build

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Faulty is the version of a release that fails while it serves, as e2e/testdata/faulty says: the program itself,
// with one line changed.
const Faulty = "faulty"

// overlayFaulty writes the sources of that release beside the binary to be, and returns the flag that has them built.
func overlayFaulty(path string) (flag string, err error) {
	const sound, unsound = "handler, applications, err := config.Handler(builtin, public, logger)",
		"handler, applications, err := faulty(config.Handler(builtin, public, logger))"
	program := filepath.Join(sources.root, "main.go")
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	if strings.Count(string(content), sound) != 1 {
		return "", fmt.Errorf("main.go has no single line %q", sound)
	}
	changed, overlay := path+".main", path+".overlay"
	if err := os.WriteFile(changed, []byte(strings.Replace(string(content), sound, unsound, 1)), 0o600); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {
		program:                                 changed,
		filepath.Join(sources.root, "fault.go"): filepath.Join(sources.root, "e2e", "testdata", "faulty", "fault.go"),
	}})
	if err != nil {
		return "", err
	}
	return "-overlay=" + overlay, os.WriteFile(overlay, replace, 0o600)
}

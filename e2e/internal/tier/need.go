// Package tier decides which tests run: what they need, how long they take, and that nothing is skipped in silence.
package tier

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

var Soak = flag.Int("soak", 0, "number of `upgrades` that TestSoak makes; 0 skips it")

// packages are those of Debian that are not called as the tool.
var packages = map[string]string{"h2load": "nghttp2-client", "promtool": "prometheus", "supervisord": "supervisor"}

// Need returns the path of a tool, and skips the test where it is missing. Under BATON_STRICT=1 nothing is skipped.
func Need(t testing.TB, tool string) (path string) {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + tool) // of which Debian does not tell ordinary users
	}
	if err == nil {
		return path
	}
	hint := fmt.Sprintf("%s is missing: install it (on Debian: apt install %s)", tool, cmp.Or(packages[tool], tool))
	if os.Getenv("BATON_STRICT") == "1" {
		t.Fatal(hint)
	}
	t.Skip(hint)
	return ""
}

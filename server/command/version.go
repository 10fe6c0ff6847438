package command

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Build is what the program was made from.
type Build struct{ Version, Revision string }

// ReadBuild returns the version that the linker has set or, if that is empty, the one
// of the module, and the commit.
func ReadBuild(version string) Build {
	b := Build{Version: version, Revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	b.Version = cmp.Or(b.Version, strings.Trim(info.Main.Version, "()"), "devel")
	return b
}

func (c *Call) version() int {
	fmt.Fprintf(c.Stdout, "baton %s (commit %s, %s)\n", c.Build.Version, c.Build.Revision, runtime.Version())
	return Done
}

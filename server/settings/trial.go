package settings

import (
	"errors"
	"fmt"
	"time"
)

const (
	defaultTrialTime = 30 * time.Second
	reloadTime       = 170 * time.Second // which baton.service and its comments allow
)

// TrialWarnings returns what in the settings of trial and watch cannot be meant so.
func (s Settings) TrialWarnings() (warnings []error) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Errorf(format, args...)) }
	t := s.Lifecycle.Trial
	tries := t.Share > 0 || t.Watch > 0
	switch {
	case t.Share > 0 && s.Connections.DisableMigration:
		warn("-canary: with -migrate=false no connection can be given to a successor on trial")
	case t.Watch > 0 && s.Connections.DisableMigration:
		warn("-watch: with -migrate=false a take-back closes the connections of the successor")
	}
	if t.Share == 0 && t.Time != defaultTrialTime {
		warn("-canary-time: without -canary it counts only where baton upgrade -canary requests a trial")
	}
	if !tries && t.Latency {
		warn("-canary-latency: without -canary and -watch it counts only where baton upgrade requests them")
	}
	if !tries && t.AbortUndecided {
		warn("-canary-undecided: without -canary and -watch it counts only where baton upgrade requests them")
	}
	if tries && s.Lifecycle.Control == "" {
		warnings = append(warnings, errors.New("-control is empty: baton promote and baton abort cannot end a trial or watch"))
	}
	if d := s.UpgradeTime(); tries && d > reloadTime {
		warn("an upgrade may take %v, and baton.service waits for %v: make -timeout in ExecReload= and TimeoutStartSec= longer, as its comments say", d, reloadTime)
	}
	return warnings
}

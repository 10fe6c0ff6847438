package deploy

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// reload has systemd reload or restart a unit. It returns what the commands of the unit said about
// it: that goes to the journal.
func reload(verb, unit string) (said string, err error) {
	command := func(name string, args ...string) (string, error) {
		out, err := exec.Command(name, args...).CombinedOutput()
		return string(out), err
	}
	if verb == "restart" {
		command("systemctl", "reset-failed", unit)
	}
	shown, _ := command("journalctl", "-q", "-u", unit, "-n", "0", "--show-cursor")
	output, err := command("systemctl", verb, unit)
	if _, cursor, found := strings.Cut(shown, "-- cursor: "); found {
		command("journalctl", "--sync")
		said, _ = command("journalctl", "-q", "-u", unit, "-o", "cat", "--after-cursor", strings.TrimSpace(cursor))
	}
	said = about(said + "\n" + output)
	if err != nil && said == "" {
		said = strings.TrimSpace(output)
	}
	return said, err
}

// isAbout matches the lines that the upgrade command prints: its outcome and the last lines of a
// successor.
var isAbout = regexp.MustCompile(`^(baton: |  \| |generation [0-9]* \(pid )`)

// about returns the first lines of a log that are about an upgrade.
func about(log string) string {
	var lines []string
	for line := range strings.Lines(log) {
		line = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) && r != '\t' {
				return -1
			}
			return r
		}, line)
		if isAbout.MatchString(line) && len(lines) < 30 {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

var (
	goesOn  = regexp.MustCompile(`(?m)^generation .* goes on serving$\n?`)
	drained = regexp.MustCompile(`(?m)^generation .*(; generation .*)$`)
)

// A step is a change of what serves to the file in place.
type step struct {
	Unit  string
	File  string
	Start bool // the service is not alive: start it, in place of a reload

	// What serves afterwards, as far as it is known.
	Name    string
	Version string
	WasPID  int
}

// Do reloads or starts the service, and waits until the file serves. What it returns for people is
// how the predecessor was drained.
func (st step) Do() (s serving, drain string, err error) {
	verb, noun := "reload", "reload"
	if st.Start {
		verb, noun = "restart", "start"
	}
	said, err := reload(verb, st.Unit)
	if err != nil {
		return s, "", fmt.Errorf("%s of %s failed:\n%s", noun, st.Unit, strings.TrimSpace(goesOn.ReplaceAllString(said, "")))
	}
	if s, err = awaitServing(st.Unit, st.File, 5*time.Second, false); err != nil {
		return s, "", fmt.Errorf("%s does not serve: %w", st.Name, err)
	}
	if s.Unit.PID == st.WasPID {
		return s, "", fmt.Errorf("%s did not upgrade: pid %d serves still", st.Unit, st.WasPID)
	}
	if st.Version != "" && s.Status.Version != st.Version {
		return s, "", fmt.Errorf("%s serves, not %s", s.Status.Version, st.Version)
	}
	if match := drained.FindAllStringSubmatch(said, -1); match != nil {
		drain = match[len(match)-1][1]
	}
	return s, drain, nil
}

// Restore sees to it that the file, which was put back, serves. It reloads the service as often as
// need be, up to twice, and starts one that went down and was alive before.
func (st step) Restore() (s serving, reloads int, err error) {
	for {
		s, err = awaitServing(st.Unit, st.File, 10*time.Second, true)
		if err == nil || reloads == 2 || s.Unit.isDown() && st.Start {
			return s, reloads, err
		}
		verb := "reload"
		if s.Unit.isDown() {
			verb = "restart"
		}
		reloads++
		reload(verb, st.Unit)
	}
}

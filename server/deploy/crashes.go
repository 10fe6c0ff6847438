package deploy

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	// proof is how long a release has to serve until it is no new one any more.
	proof = time.Minute
	// crashLimit is how often a new release may crash within that time.
	crashLimit = 3
	// crashesKept bounds what is written down.
	crashesKept = 20
)

// A death is what systemd reports of a main process that has ended (systemd.exec(5), $SERVICE_RESULT).
type death struct {
	Result string // such as "signal"; "success" is none
	Code   string // "exited", "killed" or "dumped"
	Status string // exit status or name of a signal
}

// isCrash reports whether a release is to blame for the end of its process. Exit code 2 is bad
// configuration before the service was ready, and afterwards the end of a Go program that panics.
// Those from 200 on are systemd's own, of which 203 is a program that cannot be executed.
func (d death) isCrash(wasReady bool) bool {
	switch d.Result {
	case "", "success", "exec-condition", "resources", "start-limit-hit":
		return false
	case "exit-code":
		if len(d.Status) == 3 && d.Status >= "200" {
			return d.Status == "203"
		}
		return d.Status != "2" || wasReady
	}
	return true
}

// String is the death as people read it: "signal: KILL".
func (d death) String() string {
	if d.Status == "" || d.Status == "0" {
		return d.Result
	}
	return d.Result + ": " + d.Status
}

// crashes is what is written down beside a binary of the new ones that have crashed in its place. Files are
// known by their size and time of modification, which a copy keeps.
type crashes struct {
	Crashes  []crash      `json:"crashes"` // oldest first
	Replaced *Replacement `json:"replaced,omitempty"`
}

// A crash is that of one file.
type crash struct {
	File string    `json:"file"`
	Time time.Time `json:"time"`
}

// A Replacement is that of a release which crashed again and again.
type Replacement struct {
	Time    time.Time `json:"time"`
	Crashed string    `json:"crashed"` // its version; empty if it is not known
	Reason  string    `json:"reason"`  // of the last crash
	Kept    string    `json:"kept"`    // where the file that crashed is now
	By      string    `json:"by"`      // the file in its place
}

// String is the replacement in one clause, and empty for the zero value.
func (r Replacement) String() string {
	if r.Time.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s crashed %d times within a minute (%s) and was replaced at %s",
		cmp.Or(r.Crashed, "the next release"), crashLimit, r.Reason, r.Time.Local().Format(time.DateTime))
}

// has reports whether a file has crashed.
func (c *crashes) has(file string) bool { return c.count(file) > 0 }

// count returns how many crashes of a file are written down.
func (c *crashes) count(file string) (n int) {
	for _, crash := range c.Crashes {
		if crash.File == file {
			n++
		}
	}
	return n
}

// add writes a crash down. It reports whether that was one too many, and previous is to replace the file:
// that is another, and has not crashed itself. So no two files ever replace each other in turn.
func (c *crashes) add(file string, at time.Time, previous string) (replace bool) {
	c.Crashes = append(c.Crashes, crash{file, at})
	isSame := func(crash crash) bool { return crash.File == file }
	if first := slices.IndexFunc(c.Crashes, isSame); c.count(file) > crashLimit { // others are not forgotten for it
		c.Crashes = slices.Delete(c.Crashes, first, first+1)
	}
	if n := len(c.Crashes); n > crashesKept {
		c.Crashes = c.Crashes[n-crashesKept:]
	}
	recent := 0
	for _, crash := range c.Crashes {
		if crash.File == file && at.Sub(crash.Time).Abs() <= proof {
			recent++
		}
	}
	return recent >= crashLimit && previous != "" && previous != file && !c.has(previous)
}

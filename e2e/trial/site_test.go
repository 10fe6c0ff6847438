package trial

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
)

// site is where the service of a cell runs, and how it is upgraded there.
type site interface {
	// start starts a sound release that passes everything on to the cell's good backend.
	start(t *testing.T, c *cell, keys pair)
	// deploy puts the bad release in place.
	deploy(t *testing.T, c *cell)
	// upgrade asks for the upgrade, and waits until it is decided.
	upgrade(t *testing.T, c *cell, r *row)
	// checkAlone checks that the old release serves, and nothing else is there.
	checkAlone(t *testing.T, c *cell, old int)
	// end ends the service, in order if the old release serves.
	end(t *testing.T, c *cell, r *row)
}

// sound is the version of sound releases.
const sound = "v1"

// plain is a process that nobody supervises.
type plain struct{}

var plainTriggers = []string{"SIGHUP", "baton upgrade"}

func (plain) start(t *testing.T, c *cell, keys pair) {
	c.Baton = service.Start(t, service.OverTLS(keys.cert, keys.key), service.Patient(), func(s *service.Setup) { s.Descriptors = descriptors },
		service.Config("proxy /="+c.good), service.Args(c.flags...), service.Args(commonFlags...))
}

func (plain) deploy(t *testing.T, c *cell) {
	t.Helper()
	switch {
	case c.setting != "":
		c.Configure(c.expand(c.Baton, "proxy /="+c.good))
	case c.answer != nil:
		c.Configure("proxy /=" + backend.Start(t, c.handler()))
	case c.content != nil:
		c.DeployBytes(c.content(t), 0o755)
	default:
		files.Put(t, []byte(c.fault), filepath.Join(c.Dir, "fault"), 0o600)
		c.Deploy(build.Faulty)
	}
}

func (s plain) upgrade(t *testing.T, c *cell, r *row) {
	t.Helper()
	s.expectFailure(c)
	if c.trigger == "baton upgrade" {
		u := c.TryUpgrade()
		r.Code, r.Result, r.Reason = fmt.Sprint(u.Code), u.Result, strings.Join(append([]string{u.Reason}, u.Stderr[max(0, len(u.Stderr)-1):]...), "; ")
		return
	}
	c.Signal(syscall.SIGHUP)
	c.awaitOutcome(t, r, func() bool {
		return s.expectFailure(c) == 0
	})
}

// awaitOutcome waits until the upgrade is decided or over. Whoever answers knows of it then.
func (c *cell) awaitOutcome(t *testing.T, r *row, over func() bool) {
	t.Helper()
	await.Until(t, "the end of the upgrade", func() bool {
		time.Sleep(100 * time.Millisecond) // a question takes of what the load is to have
		ended := over()
		s, err := c.TryStatus()
		if err == nil && len(s.Upgrades) > 0 {
			r.Result, r.Reason = s.Upgrades[0].Result, s.Upgrades[0].Reason
		}
		return r.Result != "" || ended
	})
}

// expectFailure notes that a successor may exit with an error, and returns how many processes there are.
func (plain) expectFailure(c *cell) int {
	all := process.Descendants(c.Mark)
	for _, pid := range all {
		if !slices.Contains(c.Alive(), pid) {
			c.TryFollow(pid)
			c.ExpectBad(pid)
		}
	}
	return len(all)
}

func (plain) checkAlone(t *testing.T, c *cell, old int) {
	t.Helper()
	service.CheckState(t, c.Baton, 1, old)
}

func (plain) end(t *testing.T, c *cell, r *row) {
	t.Helper()
	if r.Serves != "old" && c.fatal { // it may not stop by itself
		for _, pid := range generations(c.Baton) {
			c.Kill(pid, syscall.SIGKILL)
		}
	}
	if c.judged && !c.fatal && strings.Contains(c.Log(), hadToBeKilled) {
		t.Errorf("the bad release had to be killed")
	}
}

const hadToBeKilled = "has not exited in the time for returning"

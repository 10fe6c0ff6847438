package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"example.com/baton/handlers/proxy"
	"example.com/baton/server/settings"
	"example.com/baton/upgrade"
)

// check validates a configuration. It binds nothing.
func (c *Call) check() int {
	control := c.Input.ServerControl() // as this user sees it
	c.Input.Become = become
	s, err := settings.Read(c.Input)
	if err != nil {
		return c.Fail(BadUsage, err)
	}
	certificates, err := s.TLS.LoadCertificates(slog.New(slog.DiscardHandler))
	if err != nil { // they have changed since
		return c.Fail(BadUsage, err)
	}
	for _, invalid := range certificates.Invalid(time.Now()) {
		c.warn(invalid)
	}
	for _, warning := range s.TrialWarnings() {
		c.warn(warning)
	}
	c.checkBackends(s.Proxy)
	if s.Lifecycle.Control != c.Input.DefaultControl() {
		control = s.Lifecycle.Control
	}
	if control != "" {
		if err := c.checkContinuity(control, s.Listen.Plain()); err != nil {
			return c.Fail(BadUsage, err)
		}
	}
	fmt.Fprintf(c.Stdout, "the configuration is valid: it listens on %s\n", s.Listen)
	return Done
}

// checkContinuity fails if the running server, if there is one, would refuse an upgrade
// to these addresses.
func (c *Call) checkContinuity(control string, addresses []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	status, err := upgrade.AskStatus(ctx, control)
	switch {
	case err == nil && status.DropsAll(addresses...):
		return fmt.Errorf("an upgrade to this configuration would drop every listener of the running server, %q; keep one of them in this upgrade, or restart the service", status.Listen)
	case err != nil && !errors.Is(err, upgrade.ErrNoServer):
		c.warn(fmt.Errorf("it is unknown whether the running server could be upgraded to it: %w", err))
	}
	return nil
}

// backendTimeout is how long backends have to answer, which are asked at the same time.
const backendTimeout = 2 * time.Second

// checkBackends warns about backends that do not answer: they may be started later.
func (c *Call) checkBackends(options proxy.Options) {
	ctx, cancel := context.WithTimeout(context.Background(), backendTimeout)
	defer cancel()
	for _, silent := range proxy.Check(ctx, options) {
		c.warn(silent)
	}
}

// become makes this process one of another user, who is given by name or number.
func become(name string) error {
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if _, notNumber := strconv.Atoi(name); err != nil && notNumber == nil {
		if u, err = user.LookupId(name); err != nil { // that of a container may have no account
			u, err = &user.User{Uid: name, Gid: name}, nil
		}
	}
	if err != nil {
		return err
	}
	groups, err := groupsOf(u)
	if err != nil {
		return fmt.Errorf("look up the groups of user %s: %w", name, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil || uid == os.Geteuid() {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(groups), syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
		return fmt.Errorf("check as user %s: %w; run it as root, or as that user", name, err)
	}
	return nil
}

func groupsOf(u *user.User) (groups []int, err error) {
	if u.Username == "" {
		return nil, nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil {
			groups = append(groups, gid)
		}
	}
	return groups, nil
}

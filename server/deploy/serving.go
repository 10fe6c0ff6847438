package deploy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"example.com/baton/upgrade"
)

// askStatus asks the main process of a service, on its control socket, which generation
// serves.
func askStatus(p *process) (status upgrade.Status, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = p.control(func(path string) (err error) {
		status, err = upgrade.AskStatus(ctx, path)
		return err
	})
	return status, err
}

// control calls do with a path of the control socket. That is found from the outside, so that it
// takes neither the arguments of the service nor an understanding of them: do is called with one
// candidate after another until it succeeds.
func (p *process) control(do func(path string) error) error {
	err := fmt.Errorf("pid %d has none", p.PID)
	for _, path := range p.controlSockets() {
		dir, openErr := os.Open(filepath.Dir(path)) // the whole path may be longer than an address can be
		if openErr != nil {
			err = openErr
			continue
		}
		if len(path) > 107 {
			path = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
		}
		err = do(path)
		dir.Close()
		if err == nil {
			break
		}
	}
	return err
}

// controlSockets returns the unix sockets on which the process is listening, and which only its
// user may use.
func (p *process) controlSockets() (paths []string) {
	links, _ := filepath.Glob(p.file("fd/*"))
	own := make(map[string]bool)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			own[to] = true
		}
	}
	table, err := os.Open(p.file("net/unix"))
	if err != nil {
		return nil
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		path, ok := listeningSocket(lines.Text(), own)
		if !ok {
			continue
		}
		at := p.file("cwd/" + path)
		if strings.HasPrefix(path, "/") {
			at = p.file("root" + path)
		}
		if info, err := os.Stat(at); err == nil && info.Mode().Perm() == 0o600 && !slices.Contains(paths, at) {
			paths = append(paths, at)
		}
	}
	return paths
}

// listeningSocket reads a line of /proc/net/unix: the path of one of the sockets that has a name in
// the file system and accepts connections.
func listeningSocket(line string, sockets map[string]bool) (path string, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[3] != "00010000" || !sockets["socket:["+fields[6]+"]"] {
		return "", false
	}
	_, path, _ = strings.Cut(line, " "+fields[6]+" ")
	return path, path != "" && path[0] != '@'
}

// A serving is what was seen to serve.
type serving struct {
	Unit   unit
	Status upgrade.Status
}

// errNotInPlace is that another file serves.
var errNotInPlace = errors.New("which is not the binary in place")

// look checks that the file serves: what systemd has for the main process is what answers on the
// control socket, and runs the file.
func look(unit, file string) (s serving, err error) {
	if s.Unit, err = showUnit(unit); err != nil {
		return s, err
	}
	u := s.Unit
	if u.isDown() {
		return s, fmt.Errorf("%s is %s", unit, u.Active)
	}
	p := readProcess(u.PID)
	if u.PID == 0 || p == nil {
		return s, fmt.Errorf("%s is %s (%s), and has no main process", unit, u.Active, u.Sub)
	}
	if s.Status, err = askStatus(p); err != nil {
		return s, fmt.Errorf("no server answers on the control socket: %w", err)
	}
	switch status, runs := s.Status, fileID(p.file("exe")); {
	case status.PID != u.PID:
		return s, fmt.Errorf("pid %d serves, but systemd has %d for the main process", status.PID, u.PID)
	case runs != "" && runs != fileID(file):
		return s, fmt.Errorf("generation %d (pid %d, version %s) serves, %w", status.Generation, u.PID, status.Version, errNotInPlace)
	case status.State != upgrade.Serving.String() && status.State != upgrade.Upgrading.String():
		return s, fmt.Errorf("generation %d (pid %d) is %s", status.Generation, u.PID, status.State)
	}
	return s, nil
}

// awaitServing looks until the file serves. An upgrade that is under way, as after a reload that does
// not wait, does not count towards the limit: the service bounds that itself.
func awaitServing(unit, file string, limit time.Duration, shown progress) (serving, error) {
	for began := time.Now(); ; {
		s, err := look(unit, file)
		if err == nil || s.Unit.isDown() {
			return s, err
		}
		if errors.Is(err, errNotInPlace) && s.Status.State == upgrade.Upgrading.String() {
			began = time.Now()
		}
		if time.Since(began) >= limit {
			return s, err
		}
		shown.show(s)
		time.Sleep(50 * time.Millisecond)
	}
}

// killOther kills a successor that has not begun to serve, unless it runs the file. It reports whether there
// was one.
func killOther(s upgrade.Status, file string) (killed bool) {
	for _, m := range s.Generations {
		if m.Generation > s.Generation && m.State != upgrade.Starting.String() {
			return false // it has taken connections
		}
	}
	for _, child := range childrenOf(s.PID) {
		environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", child))
		if bytes.Contains(environment, []byte("TABLEFLIP_HAS_PARENT_")) && fileID(fmt.Sprintf("/proc/%d/exe", child)) != fileID(file) {
			killed = syscall.Kill(child, syscall.SIGKILL) == nil || killed
		}
	}
	return killed
}

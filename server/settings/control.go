package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
)

// Where an installed service is found: systemd/install.sh and the unit decide.
const (
	serviceControl = "/run/baton/control.sock"
	serviceUnit    = "/etc/systemd/system/baton.service"
	serviceAccount = "baton"
)

// DefaultControl returns the default path of the control socket, which only this user
// can write to.
func (in Input) DefaultControl() string {
	if dirs, _ := in.lookup("RUNTIME_DIRECTORY"); dirs != "" {
		dir, _, _ := strings.Cut(dirs, ":")
		return filepath.Join(dir, "control.sock")
	}
	return in.temporaryControl()
}

func (in Input) temporaryControl() string {
	dir, _ := in.lookup("TMPDIR")
	if dir == "" {
		dir = "/tmp"
	}
	return filepath.Join(dir, fmt.Sprintf("baton-%d", in.UID), "control.sock")
}

// ServerControl returns the path at which a server is asked that may run as another
// user: the one that it would have here or, if nothing is there, that of the service
// that systemd runs, which has none while it is stopped.
func (in Input) ServerControl() string {
	path, service := in.DefaultControl(), in.Root+serviceControl
	_, err := os.Lstat(path)
	isOwn := true
	if err == nil && path == in.temporaryControl() { // where anybody can make the directory
		isOwn = in.ownDirectory(filepath.Dir(path)) == nil
	}
	if isOwn && !errors.Is(err, fs.ErrNotExist) {
		return path
	}
	_, err = os.Stat(service)
	_, noUnit := os.Stat(in.Root + serviceUnit)
	if err == nil || in.UID == 0 && noUnit == nil {
		return service
	}
	return path
}

// serviceUser returns the user that the service runs as, if this is root, who may read
// what that user may not: the one that owns the control socket of the running service,
// or else the one of an installed service.
func (in Input) serviceUser() string {
	if in.UID != 0 {
		return ""
	}
	if info, err := os.Stat(in.ServerControl()); err == nil {
		return fmt.Sprint(info.Sys().(*syscall.Stat_t).Uid)
	}
	if u, err := user.Lookup(serviceAccount); err == nil {
		return u.Username
	}
	return ""
}

// MakeControlDirectory makes the directory of the default control socket, if control
// is that path below the directory for temporary files. It fails if the directory
// belongs to another user.
func (in Input) MakeControlDirectory(control string) error {
	if control != in.temporaryControl() {
		return nil
	}
	return in.ownDirectory(filepath.Dir(control))
}

// ownDirectory makes a directory that only this user can use, and fails if there is
// another at that path.
func (in Input) ownDirectory(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create the directory of the control socket: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("create the directory of the control socket: %w", err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; !info.IsDir() || int(owner) != in.UID || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("directory of the control socket %s: it is not a directory of mode 0700 that belongs to user %d; remove it, or use -control", path, in.UID)
	}
	return nil
}

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// root opens files in a directory. Unlike os.Root it needs no permission to read the
// directories on the way, only to search them (mode 0711), and follows an absolute
// symbolic link if its target is in the directory. It opens each element of a path by
// itself, without following links, so that a link that changes meanwhile leads
// nowhere else.
type root struct {
	dir *os.File // keeps fd open
	fd  int

	// The directory's absolute path, as given and without symbolic links; empty if
	// unknown. Only links make use of them.
	given, resolved string
}

func openRoot(dir string) (*root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	r := &root{dir: f, fd: int(f.Fd())}
	searchable, err := r.open(".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		f.Close()
		return nil, err
	}
	searchable.Close()
	// Without a working directory there may be no absolute path.
	if r.given, err = filepath.Abs(dir); err == nil {
		r.resolved, _ = filepath.EvalSymlinks(r.given)
	}
	return r, nil
}

// maxLinks bounds the links of one path, as the kernel does: path_resolution(7).
const maxLinks = 40

// errOutside is the error of a path that leads out of the directory.
var errOutside = fmt.Errorf("the path leads out of the root: %w", fs.ErrNotExist)

// open opens name, a path with slashes, with the flags of open(2).
func (r *root) open(name string, flags int) (*os.File, error) {
	fd, err := r.walk(name, flags)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (r *root) walk(name string, flags int) (int, error) {
	if len(name) >= unix.PathMax {
		return -1, unix.ENAMETOOLONG
	}
	var (
		dir   = r.fd
		done  []string // leads to dir, without a link
		todo  = strings.Split(name, "/")
		links = 0
	)
	enter := func(fd int) {
		if dir != r.fd {
			unix.Close(dir)
		}
		dir = fd
	}
	defer func() { enter(r.fd) }()
	// follow goes on with a path that is relative to the directory itself.
	follow := func(outside string) error {
		inside, err := r.inside(outside)
		enter(r.fd)
		done, todo = nil, strings.Split(inside, "/")
		return err
	}
	for len(todo) > 0 {
		element := todo[0]
		todo = todo[1:]
		switch element {
		case "", ".":
			continue
		case "..": // of a link
			if len(done) == 0 {
				if links++; links > maxLinks {
					return -1, unix.ELOOP
				}
				if err := follow(r.resolved + "/../" + strings.Join(todo, "/")); err != nil {
					return -1, err
				}
				continue
			}
			done = done[:len(done)-1]
			fd, err := r.walk(strings.Join(done, "/"), unix.O_PATH|unix.O_DIRECTORY)
			if err != nil {
				return -1, err
			}
			enter(fd)
			continue
		}
		last, how := len(todo) == 0, unix.O_PATH|unix.O_DIRECTORY
		if last {
			how = flags
		}
		fd, err := openat(dir, element, how|unix.O_NOFOLLOW)
		switch {
		case err == nil && last:
			return fd, nil
		case err == nil:
			enter(fd)
			done = append(done, element)
			continue
		case err != unix.ELOOP && err != unix.ENOTDIR: // no link, that is
			return -1, err
		}
		target, notLink := readlinkat(dir, element)
		if notLink != nil {
			return -1, err
		}
		if links++; links > maxLinks {
			return -1, unix.ELOOP
		}
		todo = append(strings.Split(target, "/"), todo...)
		if path.IsAbs(target) {
			if err := follow(strings.Join(todo, "/")); err != nil {
				return -1, err
			}
		}
	}
	return openat(dir, ".", flags)
}

// inside returns the rest of an absolute path that leads into the directory. It looks at
// names only: what is there now is for walk to find out.
func (r *root) inside(absolute string) (string, error) {
	for _, prefix := range []string{r.given, r.resolved} {
		rest, found := below(prefix, absolute)
		if found && !slices.Contains(strings.Split(rest, "/"), "..") {
			return rest, nil
		}
	}
	resolved, err := filepath.EvalSymlinks(absolute)
	if rest, found := below(r.resolved, resolved); err == nil && found {
		return rest, nil
	}
	return "", errOutside
}

func below(dir, name string) (rest string, found bool) {
	rest, found = strings.CutPrefix(name, strings.TrimSuffix(dir, "/"))
	return rest, found && dir != "" && (rest == "" || rest[0] == '/')
}

// openat is openat(2), which a signal may interrupt on file systems of some kinds.
func openat(dir int, name string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func readlinkat(dir int, name string) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, target)
	if err != nil {
		return "", err
	}
	return string(target[:n]), nil
}

// isShortage reports whether an error says that the system has no more of something now.
func isShortage(err error) bool {
	return slices.ContainsFunc([]error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.EAGAIN, unix.EBUSY},
		func(shortage error) bool { return errors.Is(err, shortage) })
}

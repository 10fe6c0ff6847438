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
	fd, err := r.walk(name, flags, nil)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// walk opens each element of name in turn. It takes the path apart itself because
// openat2(2) cannot follow absolute links within a directory. The last element is not
// opened, and the descriptor none, if suffices is not nil and returns true for it.
func (r *root) walk(name string, flags int, suffices func(dir int, element string) bool) (int, error) {
	if len(name) >= unix.PathMax {
		return -1, unix.ENAMETOOLONG
	}
	w := walker{root: r, dir: r.fd, todo: strings.Split(name, "/")}
	defer func() { w.enter(r.fd) }()
	for len(w.todo) > 0 {
		element := w.todo[0]
		w.todo = w.todo[1:]
		switch element {
		case "", ".":
			continue
		case "..": // of a link
			if err := w.leave(); err != nil {
				return -1, err
			}
			continue
		}
		last, how := len(w.todo) == 0, unix.O_PATH|unix.O_DIRECTORY
		if last {
			if how = flags; suffices != nil && suffices(w.dir, element) {
				return -1, nil
			}
		}
		fd, err := openat(w.dir, element, how|unix.O_NOFOLLOW)
		switch {
		case err == nil && last:
			return fd, nil
		case err == nil:
			w.enter(fd)
			w.done = append(w.done, element)
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR): // perhaps a link
			target, notLink := readlinkat(w.dir, element)
			if notLink != nil {
				return -1, err
			}
			if err := w.follow(target); err != nil {
				return -1, err
			}
		default:
			return -1, err
		}
	}
	return openat(w.dir, ".", flags)
}

// walker is where a walk is.
type walker struct {
	*root
	dir   int      // the directory reached; the root's own descriptor at first
	done  []string // leads to dir, without a link
	todo  []string
	links int
}

// enter continues in another directory.
func (w *walker) enter(fd int) {
	if w.dir != w.fd {
		unix.Close(w.dir)
	}
	w.dir = fd
}

// leave continues in the parent of the directory reached. That of the root is outside,
// but what follows may lead back.
func (w *walker) leave() error {
	if len(w.done) == 0 {
		return w.follow(w.resolved + "/..")
	}
	w.done = w.done[:len(w.done)-1]
	fd, err := w.walk(strings.Join(w.done, "/"), unix.O_PATH|unix.O_DIRECTORY, nil)
	if err == nil {
		w.enter(fd)
	}
	return err
}

// follow continues with the target of a link.
func (w *walker) follow(target string) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	w.todo = append(strings.Split(target, "/"), w.todo...)
	if !path.IsAbs(target) {
		return nil
	}
	inside, err := w.inside(strings.Join(w.todo, "/"))
	w.enter(w.fd)
	w.done, w.todo = nil, strings.Split(inside, "/")
	return err
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

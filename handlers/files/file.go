package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxRead is the size up to which a file is read at once, which costs less than to open it for the kernel to send,
// and goes out in one write with the header.
const maxRead = 16 << 10

// file is a regular file as it was found.
type file struct {
	name    string // a path with slashes
	stat    unix.Stat_t
	etag    string   // if it is known
	content []byte   // of a small file, which is not open
	isNoted bool     // every change of it is
	open    *os.File // a larger one; nil: content is all
}

// errIsDirectory is the error of a path that leads to a directory and lacks the slash
// at its end.
var errIsDirectory = errors.New("is a directory")

// open opens a regular file, unless it is remembered.
func (f *files) open(name string) (*file, error) {
	found := &file{name: name}
	// Without O_NONBLOCK, opening a FIFO waits for its writer.
	fd, err := f.root.walk(name, unix.O_RDONLY|unix.O_NONBLOCK, func(dir int, element string) bool {
		return unix.Fstatat(dir, element, &found.stat, unix.AT_SYMLINK_NOFOLLOW) == nil && f.memory.recall(found)
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		// To find a directory it need not be readable.
		if dir, notDirectory := f.root.walk(name, unix.O_PATH|unix.O_DIRECTORY, nil); notDirectory == nil {
			unix.Close(dir)
			return nil, errIsDirectory
		}
		fallthrough
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	case fd >= 0:
		if err := found.take(fd); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	return found, nil
}

// take makes a descriptor that of the file. It stays the caller's after an error.
func (f *file) take(fd int) error {
	if err := unix.Fstat(fd, &f.stat); err != nil {
		return fmt.Errorf("stat opened file: %w", err)
	}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return errIsDirectory
	case unix.S_IFREG:
	default:
		return fs.ErrNotExist
	}
	if f.stat.Size > maxRead {
		f.open = os.NewFile(uintptr(fd), f.name)
		return nil
	}
	content, err := readAll(fd, int(f.stat.Size))
	if err != nil {
		return &fs.PathError{Op: "read", Path: f.name, Err: err}
	}
	f.content, f.isNoted = content, notes(fd)
	unix.Close(fd)
	return nil
}

// readAll reads size bytes, or less if the file has become shorter.
func readAll(fd, size int) ([]byte, error) {
	content := make([]byte, size)
	for got := 0; got < size; {
		n, err := unix.Read(fd, content[got:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case n == 0:
			return content[:got], nil
		default:
			got += n
		}
	}
	return content, nil
}

func (f *file) close() {
	if f.open != nil {
		f.open.Close()
	}
}

// size is the length of what is served.
func (f *file) size() int64 {
	if f.open == nil {
		return int64(len(f.content))
	}
	return f.stat.Size
}

func (f *file) modified() time.Time { return time.Unix(f.stat.Mtim.Unix()) }

// reader reads the file from its beginning; the kernel can send what it reads if it is an *os.File.
func (f *file) reader() io.ReadSeeker {
	if f.open == nil {
		return bytes.NewReader(f.content)
	}
	return f.open
}

// section reads the file from its beginning, and leaves alone where reader is.
func (f *file) section() io.ReadSeeker {
	if f.open == nil {
		return bytes.NewReader(f.content)
	}
	return io.NewSectionReader(f.open, 0, f.stat.Size)
}

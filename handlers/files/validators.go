package files

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// maxHashed is the size up to which the content of a file makes its ETag.
	maxHashed = 1 << 20
	// maxKnown bounds the ETags that are remembered.
	maxKnown = 4096
)

// validators makes ETags, and remembers those that cost reading a file.
type validators struct {
	mu    sync.Mutex
	known map[version]string
}

// version is what a file system says of the content of a file. The time of the last
// change is set by the kernel alone: unlike that of the last modification it changes
// when a file is put in place by tools that preserve, or make up, the latter.
type version struct {
	device, inode     uint64
	size              int64
	modified, changed syscall.Timespec
}

// of returns the ETag of a file, in quotes, and the time that it was modified; each is
// the zero value if there is none to rely on.
//
// The ETag is made of the content, or for a large file of its size and time, as in
// nginx. Either is the same on all machines that have the same file.
func (v *validators) of(file *os.File, info fs.FileInfo) (etag string, modified time.Time, err error) {
	if modified = info.ModTime(); isMeaningless(modified) {
		modified = time.Time{}
	}
	switch {
	case info.Size() <= maxHashed:
		etag, err = v.ofContent(file, info)
	case !modified.IsZero():
		etag = fmt.Sprintf(`"%x-%x"`, modified.UnixNano(), info.Size())
	}
	return etag, modified, err
}

func (v *validators) ofContent(file *os.File, info fs.FileInfo) (string, error) {
	stat := info.Sys().(*syscall.Stat_t)
	key := version{stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim}
	v.mu.Lock()
	etag, found := v.known[key]
	v.mu.Unlock()
	if found {
		return etag, nil
	}
	hash := sha256.New()
	n, err := io.Copy(hash, io.NewSectionReader(file, 0, info.Size()))
	if err != nil {
		return "", fmt.Errorf("read file for its ETag: %w", err)
	}
	if n != info.Size() { // it is being written
		return "", nil
	}
	etag = fmt.Sprintf(`"%x"`, hash.Sum(nil)[:16])
	// Within a tick of the clock, a second on some file systems, the content may
	// change again and all of this stay the same.
	if changed := time.Unix(stat.Ctim.Unix()); time.Since(changed) > 2*time.Second {
		v.mu.Lock()
		if len(v.known) >= maxKnown {
			clear(v.known)
		}
		v.known[key] = etag
		v.mu.Unlock()
	}
	return etag, nil
}

// isMeaningless reports whether a modification time says nothing of the file: it is yet
// to come, or one that builds give to all files so that their results are the same each
// time. Those are 0 and 1 (Nix, OSTree, container images), the first days that a zip
// archive knows, 1980 (with Gradle, Cloud Native Buildpacks), 1985-10-26 (npm) and, the
// one that is no older than the web, 2010-01-01 (Bazel).
func isMeaningless(modified time.Time) bool {
	day := func(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
	return modified.Before(day(1990)) || modified.Equal(day(2010)) || modified.After(time.Now())
}

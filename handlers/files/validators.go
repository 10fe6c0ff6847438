package files

import (
	"crypto/sha256"
	"fmt"
	"io"
	"time"
)

// maxHashed is the size up to which the content of a file makes its ETag.
const maxHashed = 1 << 20

// validators returns the ETag of a file, in quotes, and the time that it was modified; each is
// the zero value if there is none to rely on.
//
// The ETag is made of the content, or for a large file of its size and time, as in
// nginx. Either is the same on all machines that have the same file.
func (m *memory) validators(file *file) (etag string, modified time.Time, err error) {
	if modified = file.modified(); isMeaningless(modified) {
		modified = time.Time{}
	}
	switch {
	case file.size() <= maxHashed:
		etag, err = m.etagOf(file)
	case !modified.IsZero():
		etag = fmt.Sprintf(`"%x-%x"`, modified.UnixNano(), file.size())
	}
	return etag, modified, err
}

// etagOf returns the ETag that the content of a file makes, or none while it is being written.
func (m *memory) etagOf(file *file) (string, error) {
	if file.etag != "" {
		return file.etag, nil
	}
	if k, found := m.find(&file.stat); found {
		if file.isNoted { // it was too young
			m.remember(file, k.etag)
		}
		return k.etag, nil
	}
	hash := sha256.New()
	n, err := io.Copy(hash, file.section())
	if err != nil {
		return "", fmt.Errorf("read file for its ETag: %w", err)
	}
	if n != file.stat.Size {
		return "", nil
	}
	etag := fmt.Sprintf(`"%x"`, hash.Sum(nil)[:16])
	m.remember(file, etag)
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

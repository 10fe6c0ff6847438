package files

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxKnown bounds the files of which something is remembered.
	maxKnown = 4096
	// maxHeld bounds the bytes of files that are.
	maxHeld = 16 << 20
	// settled is the age from which on a change makes another version: within a tick of the clock, a second on some
	// file systems, the content may change again and all that is known of the version stay the same.
	settled = 2 * time.Second
)

// memory remembers the ETags that cost reading a file, and the content of small files. It relies on the kernel to
// note every change of a file, as an ETag of it has to.
type memory struct {
	mu    sync.Mutex
	known map[version]knowledge
	held  int // bytes of content
}

// version is what a file system says of the content of a file. The time of the last
// change is set by the kernel alone: unlike that of the last modification it changes
// when a file is put in place by tools that preserve, or make up, the latter.
type version struct {
	device, inode     uint64
	size              int64
	modified, changed unix.Timespec
}

func versionOf(stat *unix.Stat_t) version {
	return version{stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim}
}

// knowledge is what is remembered of a version of a file.
type knowledge struct {
	etag    string
	content []byte // nil: of a file that is not small
}

// find returns what is remembered of a file.
func (m *memory) find(stat *unix.Stat_t) (k knowledge, found bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, found = m.known[versionOf(stat)]
	return k, found
}

// recall gives a small file, of which the version is known, its content, and reports whether that is remembered.
// Who may read the file is a part of the version: a change of that is one of the file.
func (m *memory) recall(file *file) bool {
	k, _ := m.find(&file.stat)
	if k.content == nil {
		return false
	}
	file.etag, file.content = k.etag, k.content
	return true
}

// remember forgets all else if it would be too much.
func (m *memory) remember(stat *unix.Stat_t, k knowledge) {
	if time.Since(time.Unix(stat.Ctim.Unix())) <= settled {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= maxKnown || m.held+len(k.content) > maxHeld {
		clear(m.known)
		m.held = 0
	}
	if _, found := m.known[versionOf(stat)]; !found {
		m.known[versionOf(stat)] = k
		m.held += len(k.content)
	}
}

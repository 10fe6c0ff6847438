package files

import (
	"slices"
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
	// written is the age from which on the content is remembered. What is written through a memory mapping is noted
	// when a page is written to that the disk has; until the disk has it, more may be written to it.
	written = time.Minute
)

// noting are the file systems that show every change to all at once. Those of a network may show an old version for
// some time, and tmpfs notes nothing of what is written through a memory mapping.
var noting = []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC,
	unix.SQUASHFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1}

// memory remembers the ETags that cost reading a file, and the content of small files that have not changed for long.
type memory struct {
	written time.Duration

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
	content []byte // nil: it is not remembered
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

// remember remembers the ETag of a file, and its content if that is to be relied on. It forgets all else if it would
// be too much.
func (m *memory) remember(file *file, etag string) {
	age := time.Since(time.Unix(file.stat.Ctim.Unix()))
	if age <= settled {
		return
	}
	k := knowledge{etag: etag}
	if file.isNoted && age > m.written {
		k.content = file.content
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= maxKnown || m.held+len(k.content) > maxHeld {
		clear(m.known)
		m.held = 0
	}
	m.held += len(k.content) - len(m.known[versionOf(&file.stat)].content)
	m.known[versionOf(&file.stat)] = k
}

// notes reports whether the file system of an open file notes every change.
func notes(fd int) bool {
	var s unix.Statfs_t
	return unix.Fstatfs(fd, &s) == nil && slices.Contains(noting, int64(s.Type))
}

package upgrade

// This file holds how the predecessor comes to read what a successor prints.
//
// tableflip gives os.Stderr to the successor. That variable is set once, to a
// duplicate whose descriptor points to a pipe while a successor starts and to
// the true standard error else. The successor gets the true one beside it and
// takes it when it is ready, or when its predecessor is gone.

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tailLines  = 20   // lines kept of a successor's output
	tailLength = 1000 // bytes kept of each
)

// standardError is what os.Stderr is at first. If nothing led to that file any more, the
// garbage collector would close descriptor 2, and what is written there would reach
// whatever has that number then: a client.
var standardError = os.Stderr

type stderr struct {
	real  *os.File // the true standard error
	given *os.File // what os.Stderr is

	piped bool // standard error is the predecessor's pipe
}

// newStderr takes over os.Stderr. inherited is the true standard error that a
// predecessor has passed on, or nil.
func newStderr(inherited *os.File) (*stderr, error) {
	s := &stderr{real: inherited}
	s.piped = inherited != nil
	if !s.piped {
		real, err := duplicate(2)
		if err != nil { // started without one
			if real, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
				return nil, err
			}
		}
		s.real = real
	}
	// Whoever reads standard output or error may be gone, as is the predecessor
	// that has died. Go ends a process that writes there then, unless it has asked
	// for the signal.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	given, err := duplicate(int(rawFD(standardError)))
	if err != nil {
		given, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	s.given = given
	os.Stderr = given
	return s, nil
}

// restore makes standard error the true one in a successor.
func (s *stderr) restore() {
	if !s.piped {
		return
	}
	unix.Dup3(int(rawFD(s.real)), 2, 0)
	unix.Dup3(int(rawFD(s.real)), int(rawFD(s.given)), unix.O_CLOEXEC)
	s.piped = false
}

// capture makes what a successor prints readable until release. It goes to out as
// well, which must not block: the successor would do so too.
func (s *stderr) capture(out io.Writer) (*tail, error) {
	// In blocking mode, unlike that of os.Pipe: the successor's runtime would
	// otherwise wait for events of a descriptor that is another file by then.
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a pipe for the successor's standard error: %w", err)
	}
	r, w := os.NewFile(uintptr(ends[0]), "pipe"), os.NewFile(uintptr(ends[1]), "pipe")
	defer w.Close()
	if err := unix.Dup3(int(rawFD(w)), int(rawFD(s.given)), unix.O_CLOEXEC); err != nil {
		r.Close()
		return nil, fmt.Errorf("redirect the successor's standard error: %w", err)
	}
	t := &tail{end: make(chan struct{})}
	go t.read(r, out)
	return t, nil
}

// release ends what capture began; a successor that runs keeps its pipe.
func (s *stderr) release() {
	unix.Dup3(int(rawFD(s.real)), int(rawFD(s.given)), unix.O_CLOEXEC)
}

// tail keeps the last lines of a successor's output.
type tail struct {
	end chan struct{} // closed when nobody can write any more

	mu    sync.Mutex
	lines []string
}

func (t *tail) read(r *os.File, out io.Writer) {
	defer close(t.end)
	defer r.Close()
	lines := bufio.NewReaderSize(r, tailLength)
	whole := true // the last piece ended a line
	for {
		piece, err := lines.ReadSlice('\n')
		if len(piece) > 0 {
			out.Write(piece)
			if whole {
				t.keep(strings.TrimRight(withoutPriority(string(piece)), "\r\n"))
			}
			whole = err == nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

// withoutPriority returns a line without the prefix that is for the journal only:
// sd-daemon(3).
func withoutPriority(line string) string {
	if len(line) >= 3 && line[0] == '<' && '0' <= line[1] && line[1] <= '7' && line[2] == '>' {
		return line[3:]
	}
	return line
}

// await returns when all of the output has been read, or soon if something that
// the successor has started can still write.
func (t *tail) await() {
	select {
	case <-t.end:
	case <-time.After(200 * time.Millisecond):
	}
}

func (t *tail) keep(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if strings.TrimSpace(line) == "" {
		return
	}
	if t.lines = append(t.lines, line); len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
}

func (t *tail) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

// duplicate returns a file with a descriptor of its own for fd.
func duplicate(fd int) (*os.File, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(dup), "/dev/stderr"), nil
}

// rawFD returns a file's descriptor. os.File.Fd would set the description that
// other processes share to blocking mode.
func rawFD(f *os.File) (fd uintptr) {
	if raw, err := f.SyscallConn(); err == nil {
		raw.Control(func(n uintptr) { fd = n })
	}
	return fd
}

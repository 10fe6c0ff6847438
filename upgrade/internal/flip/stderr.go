package flip

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/descriptors"
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

// Stderr lets the predecessor read what a successor prints until it is ready. tableflip
// gives os.Stderr to the successor. That variable is set once, to a duplicate whose
// descriptor leads to a pipe while a successor starts, and to the true standard error
// at all other times. The successor gets the true one beside it and takes it when it is
// ready, or when its predecessor is gone. One goroutine at a time may use it.
type Stderr struct {
	real  *os.File // the true standard error
	given *os.File // what os.Stderr is

	piped bool // standard error is the predecessor's pipe
}

// newStderr takes over os.Stderr. inherited is the true standard error that a
// predecessor has passed on, or nil.
func newStderr(inherited *os.File) (*Stderr, error) {
	s := &Stderr{real: inherited}
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
	given, err := duplicate(descriptors.Number(standardError))
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

// Restore makes standard error the true one in a successor.
func (s *Stderr) Restore() {
	if !s.piped {
		return
	}
	unix.Dup3(descriptors.Number(s.real), 2, 0)
	unix.Dup3(descriptors.Number(s.real), descriptors.Number(s.given), unix.O_CLOEXEC)
	s.piped = false
}

// Capture makes what a successor prints readable until Release. It goes to out as
// well, which must not block: the successor would do so too.
func (s *Stderr) Capture(out io.Writer) (*Tail, error) {
	// In blocking mode, unlike that of os.Pipe: the successor's runtime would
	// otherwise wait for events of a descriptor that is another file by then.
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a pipe for the successor's standard error: %w", err)
	}
	unix.SetNonblock(ends[0], true) // this end has a description of its own; see Await
	r, w := os.NewFile(uintptr(ends[0]), "pipe"), os.NewFile(uintptr(ends[1]), "pipe")
	defer w.Close()
	if err := unix.Dup3(descriptors.Number(w), descriptors.Number(s.given), unix.O_CLOEXEC); err != nil {
		r.Close()
		return nil, fmt.Errorf("redirect the successor's standard error: %w", err)
	}
	t := &Tail{pipe: r, end: make(chan struct{}), awaited: make(chan struct{})}
	go t.read(out)
	return t, nil
}

// Release ends what Capture began; a successor that runs keeps its pipe.
func (s *Stderr) Release() {
	unix.Dup3(descriptors.Number(s.real), descriptors.Number(s.given), unix.O_CLOEXEC)
}

// Tail keeps the last lines of a successor's output.
type Tail struct {
	pipe    *os.File
	end     chan struct{} // closed when nobody can write any more
	awaited chan struct{} // closed when what was written before Await has been read
	within  bool          // the last piece that was read did not end its line

	mu    sync.Mutex
	lines []string
}

func (t *Tail) read(out io.Writer) {
	defer close(t.end)
	defer t.pipe.Close()
	if err := t.copy(out, t.pipe); !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	t.pipe.SetReadDeadline(time.Time{})
	written, _ := unix.IoctlGetInt(descriptors.Number(t.pipe), unix.TIOCINQ)
	t.copy(out, io.LimitReader(t.pipe, int64(written)))
	close(t.awaited)
	t.copy(out, t.pipe)
}

// copy reads r until it fails, and returns how.
func (t *Tail) copy(out io.Writer, r io.Reader) error {
	lines := bufio.NewReaderSize(r, tailLength)
	for {
		piece, err := lines.ReadSlice('\n')
		if len(piece) > 0 {
			out.Write(piece)
			if !t.within {
				t.keep(strings.TrimRight(withoutPriority(string(piece)), "\r\n"))
			}
			t.within = err != nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
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

// Await returns when all that has been written has been read. Something that the
// successor has started may still write more. It must be called once at most.
func (t *Tail) Await() {
	t.pipe.SetReadDeadline(time.Unix(1, 0))
	select {
	case <-t.end:
	case <-t.awaited:
	}
}

func (t *Tail) keep(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if strings.TrimSpace(line) == "" {
		return
	}
	if t.lines = append(t.lines, line); len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
}

// Lines returns the last lines, at most 20.
func (t *Tail) Lines() []string {
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

// Package logging writes a log that nobody has to wait for.
//
// A log goes to a pipe, a terminal, the journal or a file, and each of them can
// stop taking it: the reader hangs, the terminal is paused, the file system is
// out of reach. A write then blocks, and with it every goroutine that logs. An
// [Output] has a queue and one goroutine that writes. What finds no room in the
// queue is dropped and counted; entries of level Error have room of their own.
//
// Standard error may be shared with other processes. So O_NONBLOCK, which
// belongs to all that share it, is left alone, and what is written at a time are
// whole entries of at most PIPE_BUF bytes, which pipes keep together.
package logging

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	capacity  = 4 << 20 // bytes of entries that wait
	reserve   = 1 << 20 // more of them, for urgent entries
	batchSize = 4096    // PIPE_BUF of Linux: pipe(7)

	// pollInterval bounds the wait for a file that another one has replaced
	// under the same descriptor.
	pollInterval = 100 * time.Millisecond

	// flushPatience is how long Flush waits without progress, and flushLimit how
	// long in all.
	flushPatience = 200 * time.Millisecond
	flushLimit    = 2 * time.Second

	// briefly is how long a write of [Output.Patient] waits.
	briefly = 20 * time.Millisecond
)

// Output is a log's way to a file descriptor. Its methods may be called by several
// goroutines at once.
type Output struct {
	fd      int
	dropped atomic.Uint64
	noted   atomic.Uint64 // of the dropped, those that the log has a note of
	failing atomic.Bool   // the last write failed

	mu      sync.Mutex
	batches []*batch
	size    int           // bytes of all batches and of the one being written
	put     uint64        // entries ever queued
	done    uint64        // of these, written or given up
	stuck   bool          // a patient write has waited in vain, and nothing has been written since
	changed chan struct{} // closed when done grows; nil unless somebody waits for that
	wake    chan struct{} // nil before the first entry
}

// batch is what is written at a time: whole entries.
type batch struct {
	text    []byte
	entries uint64
}

// NewOutput returns an Output that writes to fd, which stays open for as long as
// the process lives.
func NewOutput(fd int) *Output { return &Output{fd: fd} }

// Write queues p, which is one entry or several whole ones. It returns at once and
// never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.queue(p, capacity)
	return len(p), nil
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// urgent returns a writer whose entries are dropped last.
func (o *Output) urgent() io.Writer {
	return writerFunc(func(p []byte) { o.queue(p, capacity+reserve) })
}

// Patient returns a writer that waits a moment for each entry to be written, as
// suits a logger whose program may exit right afterwards: log.Fatal does. It waits
// no more once that was in vain, until something has been written again.
func (o *Output) Patient() io.Writer {
	return writerFunc(func(p []byte) {
		number := o.queue(p, capacity)
		o.mu.Lock()
		stuck := o.stuck
		o.mu.Unlock()
		if stuck || o.await(number, briefly, briefly) {
			return
		}
		o.mu.Lock()
		o.stuck = o.done < number
		o.mu.Unlock()
	})
}

// Dropped returns how many entries were dropped, because the queue was full or a
// write failed.
func (o *Output) Dropped() uint64 { return o.dropped.Load() }

// Flush returns when all that was queued before is written, or soon if that makes
// no progress.
func (o *Output) Flush() {
	o.mu.Lock()
	last := o.put
	o.mu.Unlock()
	o.await(last, flushPatience, flushLimit)
}

// queue adds an entry if no more than limit bytes wait then, and returns the
// number of the last entry.
func (o *Output) queue(p []byte, limit int) (number uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.size+len(p) > limit {
		o.dropped.Add(1)
		return o.put
	}
	if n := len(o.batches); n == 0 || len(o.batches[n-1].text)+len(p) > batchSize {
		o.batches = append(o.batches, &batch{text: make([]byte, 0, max(len(p), batchSize/4))})
	}
	b := o.batches[len(o.batches)-1]
	b.text = append(b.text, p...)
	b.entries++
	o.size += len(p)
	o.put++
	if o.wake == nil {
		o.wake = make(chan struct{}, 1)
		go o.run()
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return o.put
}

// run writes what is queued, for the rest of the process.
func (o *Output) run() {
	for range o.wake {
		for b := o.next(); b != nil; b = o.next() {
			err := write(o.fd, b.text)
			o.failing.Store(err != nil)
			if err != nil {
				o.dropped.Add(b.entries)
			}
			o.mu.Lock()
			o.size -= len(b.text)
			o.done += b.entries
			o.stuck = false
			if o.changed != nil {
				close(o.changed)
				o.changed = nil
			}
			o.mu.Unlock()
		}
	}
}

func (o *Output) next() *batch {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.batches) == 0 {
		o.batches = nil // and with it the memory of a queue that was long
		return nil
	}
	b := o.batches[0]
	o.batches = o.batches[1:]
	return b
}

// await returns true when the entry of a number and all before it are written or
// given up, and false if there is no progress within patience, or at the end of
// limit.
func (o *Output) await(number uint64, patience, limit time.Duration) bool {
	end := time.After(limit)
	for {
		o.mu.Lock()
		if o.done >= number {
			o.mu.Unlock()
			return true
		}
		if o.changed == nil {
			o.changed = make(chan struct{})
		}
		changed := o.changed
		o.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(patience):
			return false
		case <-end:
			return false
		}
	}
}

// takeDropped returns how many entries were dropped that the log has no note of,
// and notes them. While there is no room for a note it returns 0.
func (o *Output) takeDropped() uint64 {
	dropped, noted := o.dropped.Load(), o.noted.Load()
	if dropped == noted || o.failing.Load() {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.size > capacity/2 || !o.noted.CompareAndSwap(noted, dropped) {
		return 0
	}
	return dropped - noted
}

// write writes all of p. It waits for room before each write, because one that
// blocks would go on doing so when another file has got the descriptor, as that of
// a successor does when it is ready.
func write(fd int, p []byte) error {
	for len(p) > 0 {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(ready, int(pollInterval.Milliseconds())); n == 0 || err == unix.EINTR {
			continue
		}
		n, err := unix.Write(fd, p)
		switch err {
		case nil:
			p = p[n:]
		case unix.EINTR:
		case unix.EAGAIN: // somebody who shares the file has made it non-blocking
			time.Sleep(pollInterval / 10)
		default:
			return err
		}
	}
	return nil
}

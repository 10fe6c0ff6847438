package descriptors

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Of all descriptors of a pipe one is left, and the others lead to the null device.
func TestCloseAllBut(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var copies [3]int
	for i := range copies {
		if copies[i], err = unix.FcntlInt(uintptr(Number(w)), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(copies[i])
	}
	inode := Inode(Number(w))
	if err := CloseAllBut(Number(r), inode); err != nil { // both ends have the same inode
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("with no writer left: got %d bytes, %v, want the end", n, err)
	}
	for _, fd := range append(copies[:], Number(w)) {
		if Inode(fd) != 0 {
			t.Errorf("descriptor %d is still a pipe", fd)
		}
		if _, err := unix.Write(fd, []byte("x")); err != nil {
			t.Errorf("descriptor %d: got %v, want that of the null device", fd, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d would be given to other programs", fd)
		}
	}
	if err := CloseAllBut(Number(r), inode); err == nil {
		t.Error("got no error although nothing was left to close")
	}
}

func TestNumberKeepsTheMode(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if flags, err := unix.FcntlInt(uintptr(Number(r)), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("got flags %#x, %v, want non-blocking mode", flags, err)
	}
}

func TestInodeOfOtherFiles(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, fd := range []int{-1, Number(null), 1 << 20} {
		if n := Inode(fd); n != 0 {
			t.Errorf("descriptor %d: got inode %d, want 0", fd, n)
		}
	}
}

func TestRoom(t *testing.T) {
	connections, requests := Room()
	if connections > requests {
		t.Errorf("got room for %d connections and %d requests, want more for requests", connections, requests)
	}
	before := requests
	for range 10 {
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
	}
	if _, requests = Room(); requests != before-10 {
		t.Errorf("with ten more open: got room for %d, want %d", requests, before-10)
	}
}

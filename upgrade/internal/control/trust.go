package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// trustServer fails if the server at the other end of a control connection is one
// that a stranger may have put there. It has to run as root, as the caller, or as a
// user to whom one of these has given the directory of the socket.
func trustServer(nc net.Conn, path string) error {
	server, err := peerOf(nc)
	if err != nil {
		return err
	}
	if slices.Contains(ownersOf(path), server.Uid) {
		return nil
	}
	return fmt.Errorf("%w %s: its server runs as user %d, who may have put it there without your knowledge; run this as that user",
		ErrUntrusted, path, server.Uid)
}

// ownersOf returns the users that a server at path may run as. The caller and root
// are among them, and so is the owner of each directory on the way that only they
// could have made: whatever lies in a directory that others may write to is not
// followed.
func ownersOf(path string) []uint32 {
	owners := []uint32{0, uint32(os.Geteuid())}
	path, err := filepath.Abs(path)
	if err != nil {
		return owners
	}
	const links = 40 // as many as the kernel follows
	at, rest, followed := "/", strings.Split(path, "/"), 0
	for shared := isShared(at, owners); len(rest) > 0 && followed < links; shared = isShared(at, owners) {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		} else if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			return owners
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; !slices.Contains(owners, owner) {
			if shared {
				return owners
			}
			owners = append(owners, owner)
		}
		if info.Mode().Type() != os.ModeSymlink {
			at = next
			continue
		}
		followed++
		target, err := os.Readlink(next)
		if err != nil {
			return owners
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return owners
}

// isShared reports whether others than the owners may make entries in a directory.
func isShared(dir string, owners []uint32) bool {
	info, err := os.Lstat(dir)
	return err != nil || info.Mode().Perm()&0o022 != 0 || !slices.Contains(owners, info.Sys().(*syscall.Stat_t).Uid)
}

// peerOf returns the process at the other end of a connection over a unix socket,
// or the one that listened there.
func peerOf(nc net.Conn) (peer *unix.Ucred, err error) {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	if ctlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return nil, fmt.Errorf("identify the peer: %w", err)
	}
	return peer, nil
}

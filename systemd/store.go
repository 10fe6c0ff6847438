package systemd

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// descriptor is anything that has one.
type descriptor = syscall.Conn

func withFD(d descriptor, f func(fd int) error) error {
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// Listeners returns the listeners that systemd started this process with, by name:
// what was given to [Manager.Store], or for a socket unit its FileDescriptorName.
// A second call returns none.
func (m *Manager) Listeners() (iter.Seq2[string, net.Listener], error) {
	var names []string
	var all []net.Listener
	for _, f := range activation.Files(true) {
		ln, err := net.FileListener(f)
		f.Close()
		if err != nil {
			for _, ln := range all {
				ln.Close()
			}
			return nil, fmt.Errorf("take socket %q from systemd: %w; it must be a listening stream socket", f.Name(), err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		names, all = append(names, unescape(f.Name())), append(all, ln)
	}
	return func(yield func(string, net.Listener) bool) {
		for i, ln := range all {
			if !yield(names[i], ln) {
				return
			}
		}
	}, nil
}

// Store puts a listener into the store: should the service die, connections wait
// in its queue, and the service gets it back when systemd has restarted it. The
// unit allows that with FileDescriptorStoreMax=.
func (m *Manager) Store(name string, ln net.Listener) error {
	if m.socket == "" {
		return nil
	}
	d, ok := ln.(descriptor)
	if !ok {
		return errors.New("store listener: it has no descriptor")
	}
	fdName, err := escape(name)
	if err != nil {
		return fmt.Errorf("store listener: %w", err)
	}
	return m.send(d, "FDSTORE=1", "FDNAME="+fdName)
}

// Remove takes a listener out of the store.
func (m *Manager) Remove(name string) error {
	fdName, err := escape(name)
	if err != nil {
		return fmt.Errorf("release listener: %w", err)
	}
	return m.send(nil, "FDSTOREREMOVE=1", "FDNAME="+fdName)
}

// escape spells a name in the way that systemd wants it: at most 255 printable
// characters of ASCII, no colon. (fdname_is_valid in systemd's fd-util.c)
func escape(name string) (string, error) {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c < ' ' || c >= 127 || c == ':' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	if b.Len() > 255 {
		return "", fmt.Errorf("its name is longer than 255 bytes: %s", b.String())
	}
	return b.String(), nil
}

// unescape returns the name that escape has spelt, and any other as it is.
func unescape(name string) string {
	if plain, err := url.PathUnescape(name); err == nil {
		return plain
	}
	return name
}

package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// sendTimeout bounds a message to a systemd that does not read. The function of
// go-systemd has no bound and takes no descriptors, so that only its constants are
// used.
const sendTimeout = time.Second

// Manager is systemd where it is the service manager. Elsewhere its methods do nothing.
type Manager struct {
	socket   string        // empty: there is none
	watchdog time.Duration // 0: none
}

// New returns the manager that the environment names.
func New() *Manager {
	return &Manager{socket: os.Getenv("NOTIFY_SOCKET"), watchdog: watchdogInterval()}
}

// sendReady notifies systemd that this process is the service's main one, and that the
// service is ready: for the first time, or again after sendReloading.
func (m *Manager) sendReady() error {
	return m.send(nil, fmt.Sprintf("MAINPID=%d", os.Getpid()), daemon.SdNotifyReady)
}

// sendReloading notifies systemd that an upgrade begins.
func (m *Manager) sendReloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return m.send(nil, daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
}

// sendStopping notifies systemd that the service stops, and may take that long for it even
// if the unit gives it less. A generation that ends because its successor serves must
// not send it: systemd would stop the unit.
func (m *Manager) sendStopping(within time.Duration) error {
	return m.send(nil, daemon.SdNotifyStopping, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", within.Microseconds()))
}

// sendAlive notifies the watchdog that the service is alive.
func (m *Manager) sendAlive() error { return m.send(nil, daemon.SdNotifyWatchdog) }

// sendFailed notifies systemd that the service has failed: systemd kills what is left of it
// and, if the unit asks for that, starts it again.
func (m *Manager) sendFailed() error { return m.send(nil, "WATCHDOG=trigger") }

// sendStatus sends the line that `systemctl status` shows.
func (m *Manager) sendStatus(line string) error {
	return m.send(nil, "STATUS="+strings.ReplaceAll(line, "\n", " "))
}

// barrier returns when systemd has read everything that was sent before, by this
// process or another. A main process must not exit before systemd knows of the
// next one, or the unit stops.
func (m *Manager) barrier(ctx context.Context) error {
	if m.socket == "" {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	defer r.Close()
	for err = m.send(w, "BARRIER=1"); errors.Is(err, unix.EAGAIN) && ctx.Err() == nil; {
		err = m.send(w, "BARRIER=1")
	}
	w.Close()
	if err != nil {
		return err
	}
	// systemd closes its copy of the other end when it reads this message.
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err = r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for systemd: %w", ctx.Err())
	}
	return nil
}

// send sends one message of some lines, with a descriptor if there is one.
func (m *Manager) send(f descriptor, lines ...string) error {
	if m.socket == "" {
		return nil
	}
	nc, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer nc.Close()
	packet := []byte(strings.Join(lines, "\n"))
	if f == nil {
		err = sendPacket(nc, packet, nil)
	} else {
		err = withFD(f, func(fd int) error { return sendPacket(nc, packet, unix.UnixRights(fd)) })
	}
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// sendPacket tries at least once, unlike a Write with a deadline that has passed
// because the machine is busy. WriteMsgUnix does not take a connected datagram socket.
func sendPacket(nc *net.UnixConn, packet, rights []byte) error {
	return withFD(nc, func(socket int) error {
		for patience := time.Now().Add(sendTimeout); ; time.Sleep(sendTimeout / 100) {
			err := unix.Sendmsg(socket, packet, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if err != unix.EAGAIN || time.Now().After(patience) {
				return err
			}
		}
	})
}

// watchdogInterval returns how often systemd wants to hear that the service is
// alive, 0 for never. WATCHDOG_PID names the process that systemd started; one
// that is meant takes it away, so that its successors are meant as well.
func watchdogInterval() time.Duration {
	defer os.Unsetenv("WATCHDOG_PID")
	if pid, named := os.LookupEnv("WATCHDOG_PID"); named && pid != strconv.Itoa(os.Getpid()) {
		os.Unsetenv("WATCHDOG_USEC")
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

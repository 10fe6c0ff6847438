package upgrade

import (
	"os"
	"strconv"
)

// endsUnit reports whether systemd takes the end of this process for that of its unit:
// it is the main process, and the unit has no socket on which a successor could name
// itself (Type=notify, NotifyAccess=all).
func endsUnit() bool {
	if os.Getenv("NOTIFY_SOCKET") != "" {
		return false
	}
	if pid := os.Getenv("SYSTEMD_EXEC_PID"); pid != "" { // systemd 248 and newer
		return pid == strconv.Itoa(os.Getpid())
	}
	return os.Getenv("INVOCATION_ID") != "" && os.Getppid() == 1
}

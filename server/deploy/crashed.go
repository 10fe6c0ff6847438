package deploy

import (
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/server/settings"
	"example.com/baton/systemd"
)

// crashesFile is where crashes of a binary are written down, for everybody to read.
func crashesFile(target string) string { return target + ".crashes" }

// fileKey names a file as crashes do; "" if there is none.
func fileKey(path string) string {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
}

// readCrashes returns what is written down beside a binary. What cannot be read counts as nothing.
func readCrashes(target string) *crashes {
	c := new(crashes)
	f, err := os.Open(crashesFile(target))
	if err != nil {
		return c
	}
	defer f.Close()
	if json.NewDecoder(io.LimitReader(f, 1<<16)).Decode(c) != nil {
		return new(crashes)
	}
	return c
}

// write replaces the file as a whole.
func (c *crashes) write(target string) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := crashesFile(target)
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	err = os.WriteFile(temporary, append(text, '\n'), 0o600)
	if err == nil {
		err = os.Chmod(temporary, 0o644) // whatever the umask
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary)
	}
	return err
}

// Replaced returns the replacement by which the program of this process came into its place; zero
// means none.
func Replaced() Replacement {
	path, err := os.Executable()
	if err != nil {
		return Replacement{}
	}
	c := readCrashes(strings.TrimSuffix(path, " (deleted)"))
	if c.Replaced == nil || c.Replaced.By != fileKey("/proc/self/exe") {
		return Replacement{}
	}
	return *c.Replaced
}

// afterCrash is what ExecStopPost= of the unit runs, as root, when the main process has died: it writes
// the crash down and, if it was one too many of a new release, puts the previous one in place. That is the
// binary which runs this, unless there is none: the new one may die at once. args are those of the service,
// for its settings. What was done or could not be goes to w, for the journal.
func afterCrash(w io.Writer, unitName string, args []string) error {
	d := death{os.Getenv("SERVICE_RESULT"), os.Getenv("EXIT_CODE"), os.Getenv("EXIT_STATUS")}
	u, err := showUnit(unitName)
	if err != nil {
		return err
	}
	target, err := u.target(nil)
	if err != nil {
		return err
	}
	if !d.isCrash(u.wasReady()) || u.hasProved(target, time.Now()) || !u.ran(target, time.Now()) {
		return nil
	}
	c, previous := readCrashes(target), target+".previous"
	replace := c.add(fileKey(target), time.Now(), fileKey(previous))
	if err := c.write(target); err != nil || !replace {
		return err
	}
	config, err := settings.Read(settings.Input{Args: args, Environ: os.Environ(), UID: os.Getuid()})
	if err != nil {
		return fmt.Errorf("%s crashes, and %s cannot replace it, which rejects today's configuration: %w", target, previous, err)
	}
	if !config.CrashRollback {
		return nil
	}
	unlock, err := lockDeploy(target)
	if err != nil {
		return err
	}
	defer unlock()
	r := &Replacement{Time: time.Now(), Crashed: linkedVersion(target), Reason: d.String(), By: fileKey(previous), Kept: target + ".crashed"}
	if err := replaceBy(previous, target, r.Kept); err != nil {
		return fmt.Errorf("replace %s, which crashes, by %s: %w", target, previous, err)
	}
	c.Replaced = r
	fmt.Fprintf(w, "%sbaton: %s: %s is the previous release again, and what crashed is kept as %s\n",
		systemd.Priority(slog.LevelError), r, target, r.Kept)
	return c.write(target)
}

// replaceBy puts one file into the place of another, which it keeps under a third name.
func replaceBy(previous, target, kept string) error {
	os.Remove(kept)
	if err := os.Link(target, kept); err != nil && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return err // where there are no hard links, it is lost
	}
	if err := os.Rename(previous, target); err != nil {
		return err
	}
	syncDirectory(target)
	return nil
}

// lockDeploy takes the lock of the deploy script. It fails while a deploy runs, which sees to what serves
// itself.
func lockDeploy(target string) (unlock func(), err error) {
	path := target + ".deploy-lock"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil && fileID(path) != fileID(fmt.Sprintf("/proc/self/fd/%d", f.Fd())) {
		err = syscall.EWOULDBLOCK // who held it has just removed it
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("a deploy of %s runs: %w", target, err)
	}
	f.Truncate(0) // a deploy that was killed may have left more
	fmt.Fprintf(f, "%d crash\n", os.Getpid())
	return func() { os.Remove(path); f.Close() }, nil
}

// wasReady reports whether the service was ready at the last of its starts.
func (u unit) wasReady() bool { return u.Ready > 0 && u.Ready >= u.Started }

// hasProved reports whether the release in place has served for so long that it is no new one: since the last
// start, or before that, if it was in place already and something else is wrong now.
func (u unit) hasProved(target string, now time.Time) bool {
	since, there := sinceMonotonic(u.Ready), inPlace(target, now)
	if u.wasReady() {
		return min(since, there) >= proof
	}
	return u.Left-u.Ready >= proof && there >= since
}

// ran reports whether the release in place is that of the main process: it was there when that began.
func (u unit) ran(target string, now time.Time) bool {
	return inPlace(target, now) >= sinceMonotonic(u.Main)
}

// inPlace returns for how long a file has been where it is: the rename was the last change of its inode.
func inPlace(path string, now time.Time) time.Duration {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return now.Sub(time.Unix(st.Ctim.Unix()))
}

func sinceMonotonic(at time.Duration) time.Duration {
	var clock unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &clock) != nil {
		return 0
	}
	return time.Duration(clock.Nano()) - at
}

var linkerVersion = regexp.MustCompile(`-X[ =']*main\.version=([^\s'"]+)`)

// linkedVersion returns the version of a binary that must not be run, as far as its build information tells.
func linkedVersion(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return ""
	}
	values := make(map[string]string)
	for _, s := range info.Settings {
		values[s.Key] = s.Value
	}
	if match := linkerVersion.FindStringSubmatch(values["-ldflags"]); match != nil {
		return "version " + match[1]
	}
	return strings.TrimRight("commit "+cmp.Or(values["vcs.revision"], " "), " ")
}

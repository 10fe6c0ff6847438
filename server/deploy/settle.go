package deploy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// files are those of a deploy, all in one directory, for a rename goes no further.
type files struct {
	Target   string
	Previous string // the binary before it
	Older    string // the binary before that, until the deploy has succeeded
	Crashed  string // the last one that crashed
	Lock     string // held by the deploy that runs: its pid, "deploy", "rollback" or "crash", and what was in place
}

func filesOf(target string) files {
	return files{target, target + ".previous", target + ".deploy-older", target + ".crashed", target + ".deploy-lock"}
}

// settle ends what a deploy that was killed has left: forth if its binary runs, otherwise back. It reports
// whether that was the way back. runs is the [fileID] of the binary that runs.
func (f files) settle(runs string) (undone bool, err error) {
	if runs != "" && fileID(f.Previous) == runs && fileID(f.Target) != runs {
		if err := put(f.Previous, f.Target); err != nil {
			return false, fmt.Errorf("undo an interrupted deploy: %w", err)
		}
		undone = true
	}
	f.unkeep()
	syncDirectory(f.Target)
	return undone, nil
}

// unkeep makes Previous what it was before the deploy, if Target is what it was; otherwise the deploy got there.
func (f files) unkeep() {
	switch {
	case fileKey(f.Previous) == "" || fileKey(f.Previous) != fileKey(f.Target):
		os.Remove(f.Older)
	case fileKey(f.Older) != "":
		rename(f.Older, f.Previous)
	default:
		os.Remove(f.Previous)
	}
}

// finish ends a deploy that stays. If what was replaced crashes, it is not kept as the previous binary, so
// that no rollback leads to it: that is then what it was, unless it is what was put back.
func (f files) finish(crashes bool) {
	if crashes && fileKey(f.Previous) != "" {
		rename(f.Previous, f.Crashed)
		if key := fileKey(f.Older); key != "" && key != fileKey(f.Target) {
			rename(f.Older, f.Previous)
		}
	}
	os.Remove(f.Older)
	os.Remove(crashesFile(f.Target))
	syncDirectory(f.Target)
}

// rename leaves nothing of the old name, even where both were one file.
func rename(from, to string) {
	if os.Rename(from, to) == nil {
		os.Remove(from)
	}
}

// put makes to another name of from in one instant, or a copy where there are no hard links.
func put(from, to string) error {
	link := fmt.Sprintf("%s.deploy-link.%d", to, os.Getpid())
	defer os.Remove(link)
	if err := os.Link(from, link); err != nil {
		if err := copyFile(from, link); err != nil {
			return err
		}
	}
	return os.Rename(link, to)
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	copied, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(copied, source)
	st := info.Sys().(*syscall.Stat_t)
	return errors.Join(err, copied.Chown(int(st.Uid), int(st.Gid)), copied.Chmod(info.Mode()), copied.Sync(), copied.Close(),
		os.Chtimes(to, info.ModTime(), info.ModTime()))
}

func syncDirectory(file string) {
	if dir, err := os.Open(filepath.Dir(file)); err == nil {
		dir.Sync()
		dir.Close()
	}
}

// endTime bounds the wait for a deploy that is ended.
const endTime = time.Minute

// endOther ends the deploy that holds the lock, unless it is a rollback. That puts back what it has replaced,
// or leaves it if it serves. endOther returns what was in place before it, "" if it had not come that far.
// Who answers a crash, or has not said yet who it is, is waited for.
func (f files) endOther() (stood string, err error) {
	ended := 0
	var children []int // of the shell, which heeds the signal once they have ended
	for began := time.Now(); f.isHeld(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > endTime {
			return "", fmt.Errorf("it has not ended within %v", endTime)
		}
		text, _ := os.ReadFile(f.Lock)
		words := strings.SplitN(strings.TrimSpace(string(text)), " ", 3)
		pid, _ := strconv.Atoi(words[0])
		switch {
		case pid > 1 && pid == ended:
			terminate(children) // again, for one that had just been forked ignored it
			continue
		case len(words) < 2 || pid <= 1 || words[1] == "crash":
			continue
		case words[1] != "deploy":
			return "", errors.New("it is a rollback")
		}
		stood, ended = strings.Join(words[2:], ""), pid
		children = childrenOf(pid)
		syscall.Kill(pid, syscall.SIGTERM)
		terminate(children)
	}
	return stood, nil
}

func terminate(pids []int) {
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGTERM)
	}
}

// isHeld reports whether a deploy runs.
func (f files) isHeld() bool {
	lock, err := os.Open(f.Lock)
	if err != nil {
		return false
	}
	defer lock.Close()
	return syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

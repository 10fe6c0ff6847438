package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/tier"
)

func serve(t *testing.T) (s *Server, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "control")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s = NewServer(ln, handler{}, slog.New(slog.DiscardHandler))
	s.Serve()
	t.Cleanup(func() {
		select {
		case <-s.closing:
		default:
			s.Close()
		}
	})
	return s, path
}

type handler struct{}

func (handler) Status() json.RawMessage { return json.RawMessage(`{"version":"v"}`) }

func (handler) Refusal() json.RawMessage { return json.RawMessage(`{"result":"refused"}`) }

func (handler) CheckOverrides(text json.RawMessage) error {
	if string(text) == `{"share":2}` {
		return errors.New("the share is 2")
	}
	return nil
}

// say writes to the control socket and returns all that it answers.
func say(t *testing.T, path, text string) string {
	t.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(nc, text)
	out, _ := io.ReadAll(nc)
	return string(out)
}

func TestControlAnswers(t *testing.T) {
	_, path := serve(t)
	for name, test := range map[string]struct{ text, want string }{
		"status":          {`{"command":"status"}` + "\n", `"version":"v"`},
		"unknown command": {`{"command":"dance"}` + "\n", `unknown command \"dance\"; want upgrade, promote, abort or status`},
		"no JSON":         {"GET / HTTP/1.1\r\n\r\n", "request is not JSON"},
		"empty":           {"\n", "request is not JSON"},
		"too long":        {strings.Repeat("x", 10<<10) + "\n", "want one line of JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := say(t, path, test.text); !strings.Contains(got, test.want) || !strings.Contains(got, `"final":true`) {
				t.Errorf("got %q, want a final answer with %q", got, test.want)
			}
		})
	}
}

// Those who say nothing take places, and only places.
func TestControlFlood(t *testing.T) {
	_, path := serve(t)
	for range maxConns {
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
	}
	refused := func() bool { return strings.Contains(say(t, path, ""), "too many control connections") }
	for end := time.Now().Add(time.Minute); !refused(); {
		if time.Now().After(end) {
			t.Fatal("one more connection than there are places is not refused")
		}
	}
}

// Clients that wait for an upgrade leave room for those that ask for the status, and when they are gone for others
// that wait. What they have requested stands.
func TestControlWaiters(t *testing.T) {
	s, path := serve(t)
	wait := func() net.Conn {
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, `{"command":"upgrade"}`+"\n")
		return nc
	}
	var clients []net.Conn
	var waiters []*Waiter
	for range maxConns {
		clients = append(clients, wait())
		waiters = append(waiters, <-s.Requests())
	}
	if got := say(t, path, `{"command":"status"}`+"\n"); !strings.Contains(got, `"version":"v"`) {
		t.Errorf("status: got %q", got)
	}
	if got := say(t, path, `{"command":"upgrade"}`+"\n"); !strings.Contains(got, "too many clients wait") {
		t.Errorf("one more that waits: got %q", got)
	}
	clients[0].(*net.UnixConn).CloseWrite() // it reads on
	for _, nc := range clients[1:] {
		nc.Close()
	}
	// The one that is there, and is told so, keeps its place.
	for range maxConns - 1 {
		for {
			nc := wait()
			select {
			case w := <-s.Requests():
				defer nc.Close()
				waiters = append(waiters, w)
			case <-time.After(10 * time.Millisecond): // the server has not noticed yet that others have gone
				nc.Close()
				continue
			}
			break
		}
	}
	passed := make(chan bool)
	waiters[1].PassOn(func(net.Conn) json.RawMessage { close(passed); return nil })
	<-passed
	waiters[0].Reply(Reply{Final: true, Progress: "done"})
	if got, err := io.ReadAll(clients[0]); err != nil || !strings.Contains(string(got), "done") {
		t.Errorf("got %q, %v, want the answer", got, err)
	}
}

// Who has asked when the server has come to its end gets an answer.
func TestControlRefusesAtTheEnd(t *testing.T) {
	c, path := serve(t)
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprintln(nc, `{"command":"upgrade"}`)
	for end := time.Now().Add(time.Minute); len(c.waiting) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	done := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(nc).ReadString('\n')
		done <- line
	}()
	c.Close()
	if line := <-done; !strings.Contains(line, `"refused"`) {
		t.Errorf("got %q, want a refusal", line)
	}
}

func TestControlRefusesOtherUsers(t *testing.T) {
	tier.Root(t)
	_, path := serve(t)
	// Who can reach the socket by somebody's mistake is refused all the same.
	for _, open := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path), path} {
		if err := os.Chmod(open, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	answer := make(chan string)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			answer <- errno.Error()
			return
		}
		nc, err := net.Dial("unix", path)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer nc.Close()
		out, _ := io.ReadAll(nc)
		answer <- string(out)
	}()
	if got := <-answer; !strings.Contains(got, "user 65534 may not control this server; run this as user 0 or root") {
		t.Errorf("got %q, want a refusal that says what to do", got)
	}
}

func TestWaiterNeverBlocksRun(t *testing.T) {
	w := newWaiter()
	for range 1000 {
		w.Reply(Reply{Progress: "x"})
	}
	w.Reply(Reply{Final: true})
	var last Reply
	for len(w.replies) > 0 {
		last = <-w.replies
	}
	if !last.Final {
		t.Errorf("got %+v as the last reply, want the final one", last)
	}
}

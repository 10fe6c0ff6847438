package clients

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/tier"
)

// through starts a program that passes on its input, and returns its other end. It makes requests through it
// with what rekey writes between them.
func (s *stage) through(name string, rekey []string, argv ...string) {
	s.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	theirs, ours := os.NewFile(uintptr(pair[0]), "theirs"), os.NewFile(uintptr(pair[1]), "ours")
	nc, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout = theirs, theirs
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	theirs.Close()
	c := &client{name: name, pid: cmd.Process.Pid}
	var ending atomic.Bool
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		conn := http1.NewConn(nc)
		all := lines()
		for i := 0; !ending.Load(); i++ {
			if err := askThrough(conn, c.pid, &all[i%len(all)], rekey, i); err != nil {
				c.problem("request %d: %v", i+1, err)
				return
			}
			c.answered.Add(1)
			time.Sleep(pause)
		}
	}()
	c.end = func() {
		ending.Store(true)
		<-asked
		cmd.Process.Kill()
		cmd.Wait()
		nc.Close()
	}
	s.add(c)
}

// awaitRead waits until the program has read all that was written to it, and sleeps: it takes for a command only what
// it reads alone, at the beginning of a line. Before it sleeps, the system call that has read all may go on to read
// what is written next.
func awaitRead(conn *http1.Conn, pid int) error {
	raw, err := conn.Conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var unread int
	if !await.Holds(await.Hang, func() bool {
		raw.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		return unread == 0 && process.Sleeps(pid) || err != nil
	}) {
		err = fmt.Errorf("%d bytes were not read, or the program does not sleep", unread)
	}
	return err
}

// lines are requests and answers that end a line, so that a command may follow. Bodies of requests are digits: s_client
// takes some letters for a command, of which the first byte that it reads at a time may be one.
func lines() []exchange.Exchange {
	all := []exchange.Exchange{exchange.New("GET", "/drip/50000", nil, 200, exchange.Pattern(50_000))}
	for _, n := range []int{100, 700, 16_256, 100_000} {
		body := append(bytes.Repeat([]byte("0123456789"), n/10+1), '\n')
		all = append(all, exchange.New("GET", fmt.Sprint("/fixed/", n), nil, 200, exchange.Pattern(n)), exchange.New("POST", "/echo", body, 200, body))
	}
	return all
}

// askThrough makes one request, every third time with a change of keys before, and every third within.
func askThrough(conn *http1.Conn, pid int, x *exchange.Exchange, rekey []string, i int) error {
	conn.SetDeadline(time.Now().Add(await.Hang))
	change := func(when int) error {
		if len(rekey) == 0 || i == 0 || i%3 != when {
			return nil
		}
		if err := awaitRead(conn, pid); err != nil {
			return err
		}
		if _, err := conn.Write([]byte(rekey[i%len(rekey)])); err != nil {
			return err
		}
		return awaitRead(conn, pid)
	}
	if err := change(0); err != nil {
		return err
	}
	half := bytes.IndexByte(x.Keep, '\n') + 1
	if _, err := conn.Write(x.Keep[:half]); err != nil {
		return err
	}
	if err := change(1); err != nil {
		return err
	}
	if _, err := conn.Write(x.Keep[half:]); err != nil {
		return err
	}
	var resp http1.Response
	if err := conn.Receive(x.Method, &resp); err != nil {
		return err
	}
	if resp.Status != x.Status || string(resp.Body) != string(x.Body) || resp.Close {
		return fmt.Errorf("got %d, %d bytes, close %v, want %d, %d bytes, the connection kept", resp.Status, len(resp.Body), resp.Close, x.Status, len(x.Body))
	}
	return nil
}

func TestOpenSSL(t *testing.T) {
	tier.Slow(t, "asks another program to be the client")
	t.Parallel()
	path := tier.Tool(t, "openssl")
	s := newStage(t)
	for name, suite := range map[string]string{"AES-128": "TLS_AES_128_GCM_SHA256", "AES-256": "TLS_AES_256_GCM_SHA384", "ChaCha20": "TLS_CHACHA20_POLY1305_SHA256"} {
		// K asks for new keys of the other side as well.
		s.through("s_client, "+name, []string{"k\n", "K\n"}, path, "s_client", "-connect", s.Secure(), "-servername", http1.Host, "-brief",
			"-CAfile", s.certFile, "-verify_return_error", "-alpn", "http/1.1", "-tls1_3", "-ciphersuites", suite)
	}
	python := tier.Tool(t, "python3")
	for _, what := range []string{"get", "download", "upload"} {
		s.run("Python, "+what, true, python, "testdata/client.py", what, s.Secure(), http1.Host, s.certFile)
	}
	s.throughUpgrades(len(s.clients))
}

func TestGnuTLS(t *testing.T) {
	tier.Slow(t, "asks another program to be the client")
	t.Parallel()
	path := tier.Tool(t, "gnutls-cli")
	s := newStage(t)
	host, port, _ := net.SplitHostPort(s.Secure())
	for _, rekey := range [][]string{nil, {"^rekey1^\n", "^rekey^\n"}} {
		s.through(fmt.Sprintf("gnutls-cli %q", rekey), rekey, path, "--inline-commands", "--logfile", "/dev/null", "--x509cafile", s.certFile,
			"--verify-hostname", http1.Host, "--sni-hostname", http1.Host, "--alpn", "http/1.1", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3", "-p", port, host)
	}
	s.throughUpgrades(len(s.clients))
}

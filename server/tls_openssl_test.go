package server_test

import (
	"bufio"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// sClient is a client of OpenSSL, which sends KeyUpdates at a command.
type sClient struct {
	*client
	cmd *exec.Cmd
	to  io.Writer
}

func (l *tlsLine) openssl(s *served, args ...string) *sClient {
	t := l.t
	t.Helper()
	openssl := tier.Tool(t, "openssl")
	trusted := filepath.Join(t.TempDir(), "pem")
	if err := os.WriteFile(trusted, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.signed.Leaf.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(openssl, append([]string{"s_client", "-connect", s.addr.String(), "-servername", "example.com",
		"-CAfile", trusted, "-verify_return_error"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, far, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = far, far
	err = cmd.Start()
	far.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out.Close()
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &sClient{&client{t, nil, bufio.NewReader(out)}, cmd, in}
}

// get sends a request and reads the body of the answer, which is a line.
func (c *sClient) get(path string) string {
	c.t.Helper()
	c.say("GET " + path + " HTTP/1.1\r\nHost: example.com\r\n\r\n")
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			c.t.Fatalf("read the answer: %v", err)
		}
		if body, found := strings.CutPrefix(line, "answer "); found {
			return strings.TrimSpace(body)
		}
	}
}

func (c *sClient) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.to, text); err != nil {
		c.t.Fatal(err)
	}
}

// awaitLine reads until a line that contains something.
func (c *sClient) awaitLine(want string) {
	c.t.Helper()
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			c.t.Fatalf("read until %q: %v", want, err)
		}
		if strings.Contains(line, want) {
			return
		}
	}
}

// Keys change before, between and after migrations, requested and not, with each cipher suite.
func TestKeyUpdatesOfOpenSSL(t *testing.T) {
	t.Parallel()
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			l := newTLSLine(t)
			generation := func(name string) *served {
				return l.serve(listen(t), server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, "answer "+name+"\n")
				})}, nil)
			}
			s := generation("0")
			c := l.openssl(s, "-ciphersuites", suite)
			for i, update := range []string{"", "K", "k", "KkK", ""} {
				name := string(rune('0' + i))
				for _, before := range update {
					c.say(string(before) + "\n")
					c.awaitLine("KEYUPDATE")
				}
				if got := c.get("/"); got != name {
					t.Errorf("got an answer of %q, want %q", got, name)
				}
				for _, after := range update { // nothing else follows before the migration
					c.say(string(after) + "\n")
					c.awaitLine("KEYUPDATE")
				}
				await(t, "idleness", func() bool { return s.Load().Connections == upgrade.Connections{Idle: 1} })
				m := &movers{first: s, second: generation(string(rune('0' + i + 1)))}
				if d := <-m.handOff(patience); d.Migrated != 1 {
					t.Errorf("got %+v, want one migrated", d)
				}
				s = m.second
				for _, alone := range update { // the first that comes in the successor
					c.say(string(alone) + "\n")
					c.awaitLine("KEYUPDATE")
				}
			}
			if got := c.get("/"); got != "5" {
				t.Errorf("got an answer of %q, want the last generation's", got)
			}
			<-s.drain(patience, all)
		})
	}
}

package proxy

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
)

// What a backend sends without being asked is in the log, as all else.
func TestUnsolicitedResponse(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nX: \"\x1b[31m\r\n\r\n")
				io.Copy(io.Discard, c)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })

	b := service.Start(t, service.Args("-proxy", "/=http://"+ln.Addr().String()))
	if resp := b.Get("/"); resp.Status != 200 {
		t.Errorf("got %d, want 200", resp.Status)
	}
	await.Until(t, "a line about it", func() bool { return strings.Contains(b.Log(), "belong to no response") })
	for line := range strings.Lines(b.Log()) {
		var fields struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if strings.HasSuffix(fields.Msg, "belong to no response") && fields.Level != "WARN" {
			t.Errorf("%q: got level %s, want WARN", line, fields.Level)
		}
	}
}

// Whatever is wrong with a rule, nobody reads the password that was in it.
func TestPasswordsInConfiguration(t *testing.T) {
	t.Parallel()
	const url = "http://me:hunter2@127.0.0.1:1/"
	for _, test := range []struct {
		name, file string
		args, env  []string
	}{
		{name: "flag", args: []string{"-proxy", "/=" + url}},
		{name: "flag without prefix", args: []string{"-proxy", url}},
		{name: "flag with an error in the URL", args: []string{"-proxy", "/=http://me:hunter2@h:x/"}},
		{name: "flag with a comma in the password", args: []string{"-proxy", "/=http://me:hunter2,hunter2@h/"}},
		{name: "argument", args: []string{"/=" + url}},
		{name: "URL as an argument", args: []string{"-proxy", "/=", url}},
		{name: "unknown flag", args: []string{"-proxi=/=" + url}},
		{name: "unknown flag and its value", args: []string{"-proxi", "/=" + url}},
		{name: "environment", env: []string{"BATON_PROXY=/=" + url}},
		{name: "file", file: "proxy /=" + url},
		{name: "file with an equals sign", file: "proxy=/=" + url},
		{name: "file with nothing but the value", file: "/=" + url},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := service.Prepare(t)
			args := append([]string{"check"}, test.args...)
			if test.file != "" {
				files.Put(t, []byte(test.file+"\n"), b.Dir+"/file", 0o600)
				args = append(args, "-config", b.Dir+"/file")
			}
			code, stdout, stderr := process.Run(t, b.Bin, test.env, args...)
			if code != 2 || strings.Contains(stdout+stderr, "hunter2") {
				t.Errorf("got exit code %d, %q, %q, want 2 and no password", code, stdout, stderr)
			}
		})
	}
}

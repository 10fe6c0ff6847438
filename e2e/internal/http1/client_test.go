package http1

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
)

// answering returns a connection whose server has sent this and closed it.
func answering(t *testing.T, raw string) *Conn {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.WriteString(server, raw)
		server.Close()
	}()
	t.Cleanup(func() { client.Close(); <-done })
	return NewConn(client)
}

func TestReceive(t *testing.T) {
	tests := []struct {
		name, method, raw string
		status            int
		body              string
		close             bool
		interim           int
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false, 0},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nA: b\r\n\r\n", 200, "ok", false, 0},
		{"end of the connection", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", 200, "ok", true, 0},
		{"interim responses", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, "", false, 2},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 200, "", false, 0},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var resp Response
			if err := answering(t, tt.raw).Receive(tt.method, &resp); err != nil {
				t.Fatal(err)
			}
			if resp.Status != tt.status || string(resp.Body) != tt.body || resp.Close != tt.close || resp.Interim != tt.interim {
				t.Errorf("got %d %q close %v interim %d, want %d %q %v %d",
					resp.Status, resp.Body, resp.Close, resp.Interim, tt.status, tt.body, tt.close, tt.interim)
			}
		})
	}
}

func TestReceiveSaysHowFarItCame(t *testing.T) {
	tests := []struct {
		name, raw string
		want      part
	}{
		{"nothing", "", BeforeHeader},
		{"half a header", "HTTP/1.1 200 OK\r\nContent-Le", inHeader},
		{"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", InBody},
		{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", InBody},
		{"no HTTP", "220 mail.example ESMTP\r\n", Malformed},
		{"no length", "HTTP/1.1 200 OK\r\n\r\nok", Malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var broken *ReadError
			err := answering(t, tt.raw).Receive("GET", new(Response))
			if !errors.As(err, &broken) || broken.Part != tt.want {
				t.Errorf("got %v, want it %v", err, tt.want)
			}
		})
	}
}

// What has come before the time was over is seen, however late the look is.
func TestAwaitCloseLooksLate(t *testing.T) {
	for raw, want := range map[string]Ending{"": Fin, "x": MoreData} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c := MustDial(t, "tcp", ln.Addr().String())
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := c.AwaitClose(-time.Second); got != StillOn {
			t.Errorf("open: got %s, want %s", got, StillOn)
		}
		io.WriteString(server, raw)
		server.Close()
		await.Until(t, "what the server has sent", c.hasCome)
		if got := c.AwaitClose(-time.Second); got != want {
			t.Errorf("server that sends %q: got %s, want %s", raw, got, want)
		}
	}
}

func TestAwaitClose(t *testing.T) {
	if got := answering(t, "").AwaitClose(time.Minute); got != Fin {
		t.Errorf("closed: got %s, want %s", got, Fin)
	}
	if got := answering(t, "x").AwaitClose(time.Minute); got != MoreData {
		t.Errorf("more data: got %s, want %s", got, MoreData)
	}
	client, server := net.Pipe()
	defer server.Close()
	defer client.Close()
	if got := NewConn(client).AwaitClose(time.Millisecond); got != StillOn {
		t.Errorf("open: got %s, want %s", got, StillOn)
	}
}

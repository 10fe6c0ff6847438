package transport

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestUpgrade(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
	for name, body := range map[string]string{"without a body": "", "with a body": strings.Repeat("body", 100_000)} {
		t.Run(name, func(t *testing.T) {
			b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
				r, err := http.ReadRequest(in)
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(conn, switching+"early")
				if got, _ := io.ReadAll(r.Body); string(got) != body {
					t.Errorf("body: got %d bytes, want %d", len(got), len(body))
				}
				line, _ := in.ReadString('\n')
				io.WriteString(conn, line)
				io.Copy(io.Discard, in)
			})
			b.transport.options.HeaderTimeout = time.Minute
			ctx, cancel := context.WithCancel(t.Context())
			r := request(t, "POST", strings.NewReader(body)).WithContext(ctx)
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "x")
			sent := make(chan struct{})
			if body != "" {
				r.Body = closing{r.Body, sent}
			} else {
				close(sent)
			}
			response, err := b.transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-sent:
			default:
				t.Error("got the connection while the request is being sent")
			}
			cancel() // the connection is not the request's any more
			up, ok := response.Body.(*Upgraded)
			if _, isTCP := up.Conn.(*net.TCPConn); !ok || !isTCP {
				t.Fatalf("body: got %T over %T", response.Body, up.Conn)
			}
			io.WriteString(up, "hello\n")
			got := make([]byte, len("earlyhello\n"))
			if _, err := io.ReadFull(up, got); string(got) != "earlyhello\n" {
				t.Errorf("got %q, %v", got, err)
			}
			up.Close()
		})
	}
}

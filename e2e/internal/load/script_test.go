package load

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// scripted listens, and treats each connection as the script says. The script gets the connection,
// a way to read the next request (false: the client has gone), and closes the connection by returning.
func scripted(t *testing.T, script func(c net.Conn, next func() bool)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			wg.Go(func() {
				defer c.Close()
				script(c, func() bool {
					req, err := http.ReadRequest(r)
					if err != nil {
						return false
					}
					_, err = io.Copy(io.Discard, req.Body)
					return err == nil
				})
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// reset destroys the connection.
func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

const (
	good      = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	goodClose = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
)

package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

func TestOnDrain(t *testing.T) {
	for name, tt := range map[string]struct {
		grace, timeout time.Duration
		late           bool // registered in the drain
		want           time.Duration
	}{
		"after its grace":       {grace: 200 * time.Millisecond, timeout: patience, want: 200 * time.Millisecond},
		"before the deadline":   {timeout: 2 * time.Second, want: 1800 * time.Millisecond},
		"grace beyond it":       {grace: time.Minute, timeout: 2 * time.Second, want: 1800 * time.Millisecond},
		"late":                  {grace: 300 * time.Millisecond, timeout: patience, late: true, want: 300 * time.Millisecond},
		"late, after its grace": {grace: time.Nanosecond, timeout: patience, late: true, want: time.Nanosecond},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			called := make(chan time.Duration, 2)
			var began time.Time
			s := serveOn(t, memory(), server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				nc, buf, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer nc.Close()
				register := func() (stop func()) {
					return server.OnDrain(r.Context(), tt.grace, func(ctx context.Context) {
						took := time.Since(began)
						if end, bounded := ctx.Deadline(); !bounded || end.Sub(began) >= tt.timeout || end.Before(time.Now()) {
							t.Errorf("context: ends %v after the drain began, want shortly before its deadline", end.Sub(began))
						}
						io.WriteString(nc, "bye\n")
						nc.Close()
						called <- took
					})
				}
				if !tt.late {
					defer register()()
				}
				io.WriteString(nc, "mine\n")
				if <-server.Draining(r.Context()); tt.late {
					defer register()()
				}
				buf.ReadByte() // until it is closed
			})})
			c := s.dial()
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if line, _ := c.in.ReadString('\n'); line != "mine\n" {
				t.Fatalf("got %q, want mine", line)
			}
			if got := s.Load().Connections; got != (upgrade.Connections{Hijacked: 1}) {
				t.Errorf("connections: got %+v, want one that is hijacked", got)
			}
			began = time.Now()
			d := <-s.drain(tt.timeout, all)
			if line, _ := c.in.ReadString('\n'); line != "bye\n" {
				t.Errorf("got %q, want bye", line)
			}
			if took := <-called; took != tt.want {
				t.Errorf("called after %v, want %v", took, tt.want)
			}
			if d.Requests != 1 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
				t.Errorf("got %+v, want one request finished and one connection closed by its handler", d)
			}
			if len(called) > 0 {
				t.Error("called twice")
			}
		}))
	}
}

func TestOnDrainRemoved(t *testing.T) {
	inBubble(func(t *testing.T) {
		entered, leave := make(chan struct{}), make(chan struct{})
		s := serveOn(t, memory(), server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			stop := server.OnDrain(ctx, time.Nanosecond, func(context.Context) { t.Error("called, and was removed before") })
			stop()
			stop()
			slow := server.OnDrain(ctx, time.Nanosecond, func(context.Context) { close(entered); time.Sleep(time.Second); close(leave) })
			<-entered
			slow()
			select {
			case <-leave:
			default:
				t.Error("stop returned while it ran")
			}
		})})
		s.dial().send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		<-s.drain(patience, all)
	})(t)
}

// What nobody removes ends with its connection.
func TestOnDrainOfClosedConnection(t *testing.T) {
	inMemory(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, _, _ := w.(http.Hijacker).Hijack()
		f := func(context.Context) { t.Error("called for a connection that is closed") }
		server.OnDrain(r.Context(), time.Nanosecond, f)
		nc.Close()
		server.OnDrain(r.Context(), time.Nanosecond, f)()
		server.OnDrain(r.Context(), time.Nanosecond, f)
	})}, func(t *testing.T, s *served) {
		s.dial() // holds the drain for the idle grace
		hijacked := s.dial()
		hijacked.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := hijacked.in.ReadByte(); err != io.EOF {
			t.Fatalf("got %v, want the end of the connection", err)
		}
		synctest.Wait()
		<-s.drain(patience, all)
	})
}

func TestOnDrainOfForeignContext(t *testing.T) {
	server.OnDrain(t.Context(), time.Nanosecond, func(context.Context) { t.Error("called for a context that is no request's") })()
}

// A handler that takes a connection over, and says good-bye to its client before
// the drain would cut it.
func ExampleOnDrain() {
	chat := func(w http.ResponseWriter, r *http.Request) {
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		stop := server.OnDrain(r.Context(), 10*time.Millisecond, func(ctx context.Context) {
			fmt.Fprintln(conn, "we are closing, come back")
			conn.Close() // ends the loop below
		})
		defer stop()
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(conn, "you called ", line)
		}
	}
	srv := server.New(server.Options{Handler: http.HandlerFunc(chat)})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv.Add(ln)
	srv.Serve()

	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: chat\r\n\r\nhello\n")
	heard := make([]byte, len("you called hello\n"))
	io.ReadFull(client, heard)
	fmt.Print(string(heard))

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go srv.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return false }})
	last, _ := io.ReadAll(client)
	fmt.Print(string(last))
	// Output:
	// you called hello
	// we are closing, come back
}

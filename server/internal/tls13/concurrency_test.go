package tls13

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipe returns a connection over net.Pipe, of which every Write blocks until it is read, and
// the peer at the other end.
func pipe(t *testing.T) (*Conn, *peer, net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	return newConn(t, near, state), newPeer(t, state), far
}

// TestReadDoesNotWaitForAWrite has a peer that reads nothing send requests for KeyUpdates.
func TestReadDoesNotWaitForAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, far := pipe(t)
		wrote := make(chan error)
		go func() {
			_, err := c.Write([]byte("blocked"))
			wrote <- err
		}()
		synctest.Wait()
		go func() {
			for range 5 {
				far.Write(p.update(updateRequested))
				far.Write(p.data("data"))
			}
		}()
		got := make([]byte, 5*len("data"))
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		go c.Write([]byte("answer"))
		wire := make([]byte, len("blocked")+overhead)
		io.ReadFull(far, wire)
		if got := p.receive(t, wire); got.data != "blocked" || got.updates > 0 {
			t.Errorf("received %+v", got)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		wire = make([]byte, len("answer")+overhead+updateLen)
		io.ReadFull(far, wire)
		if got := p.receive(t, wire); got.data != "answer" || got.updates != 1 {
			t.Errorf("received %+v", got)
		}
		far.Close()
	})
}

// TestAlertDuringAWrite has a peer violate the protocol while it does not read: the Read fails
// at once, and the alert follows the records that are on their way.
func TestAlertDuringAWrite(t *testing.T) {
	for _, batches := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			c, p, far := pipe(t)
			type result struct {
				n   int
				err error
			}
			wrote := make(chan result)
			go func() {
				n, err := c.Write(make([]byte, batches*batchLen))
				wrote <- result{n, err}
			}()
			synctest.Wait()
			go far.Write(p.record(typeHandshake, 1, 0, 0, 0))
			_, err := c.Read(make([]byte, 1))
			if !errors.Is(err, alertUnexpectedMessage) {
				t.Error(err)
			}
			wire := make([]byte, batchLen+2*overhead+overhead+2)
			io.ReadFull(far, wire)
			got := p.receive(t, wire)
			if len(got.data) != batchLen || !slices.Equal(got.alerts, []tls.AlertError{alertUnexpectedMessage}) {
				t.Errorf("received %d bytes and alerts %v", len(got.data), got.alerts)
			}
			if r := <-wrote; r.n != batchLen || (r.err != nil) != (batches > 1) || r.err != nil && !errors.Is(r.err, err) {
				t.Errorf("Write: %+v", r)
			}
			if _, again := c.Write([]byte("more")); !errors.Is(again, err) {
				t.Errorf("another Write: %v", again)
			}
			go c.Close()
			if n, err := far.Read(wire); n > 0 || !errors.Is(err, io.EOF) {
				t.Errorf("then %d bytes and %v", n, err)
			}
		})
	}
}

// TestAlertToADeafPeer gives up to send an alert.
func TestAlertToADeafPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, far := pipe(t)
		go far.Write([]byte("GET /"))
		begin := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, alertUnexpectedMessage) {
			t.Error(err)
		}
		if took := time.Since(begin); took != finalWrite {
			t.Errorf("took %v", took)
		}
		c.Close()
	})
}

// TestHoldsDuringARead looks at a Read that is blocked in the middle of a record.
func TestHoldsDuringARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, far := pipe(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Read(make([]byte, 1))
		}()
		synctest.Wait()
		if c.Holds() {
			t.Error("holds what has not come")
		}
		record := p.data("data")
		for i := range len(record) - 1 {
			far.Write(record[i : i+1])
			synctest.Wait()
			if !c.Holds() || c.Pending() != i+1 {
				t.Fatalf("%d bytes are pending, want %d", c.Pending(), i+1)
			}
		}
		far.Close()
		<-done
	})
}

// TestNothingIsHeldOfAKeyUpdate has a Read blocked behind a KeyUpdate.
func TestNothingIsHeldOfAKeyUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, far := pipe(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Read(make([]byte, 1))
		}()
		far.Write(p.update(updateRequested))
		synctest.Wait()
		if c.Holds() || c.Pending() != 0 {
			t.Errorf("%d bytes are pending, want none", c.Pending())
		}
		far.Close()
		<-done
	})
}

func TestCloseDuringAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := pipe(t)
		wrote, read := make(chan error), make(chan error)
		go func() {
			_, err := c.Write([]byte("blocked"))
			wrote <- err
		}()
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		begin := time.Now()
		if err := c.Close(); err != nil || time.Since(begin) > 0 {
			t.Errorf("Close: %v after %v", err, time.Since(begin))
		}
		if err := <-wrote; !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		if err := <-read; !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	})
}

// TestCloseNotifyIsSentOnce ends writing in several ways.
func TestCloseNotifyIsSentOnce(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	layer.toRead = p.update(updateRequested) // which needs no answer if no data follows
	readAll(c)
	for range 2 {
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	// What the peer sends is still received.
	layer.toRead = slices.Concat(p.data("late"), p.record(typeAlert, levelWarning, 0))
	if got, err := readAll(c); string(got) != "late" || !errors.Is(err, io.EOF) {
		t.Errorf("received %q and %v", got, err)
	}
	c.Close()
	if got := p.receive(t, layer.sent()); got.data != "" || got.updates > 0 || !slices.Equal(got.alerts, []tls.AlertError{alertCloseNotify}) {
		t.Errorf("sent %+v", got)
	}
}

// TestNoAlertAfterACloseNotify has a peer violate the protocol when writing has ended.
func TestNoAlertAfterACloseNotify(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	c.CloseWrite()
	layer.toRead = p.record(typeHandshake, 1)
	if _, err := readAll(c); !errors.Is(err, alertUnexpectedMessage) {
		t.Error(err)
	}
	if got := p.receive(t, layer.sent()); !slices.Equal(got.alerts, []tls.AlertError{alertCloseNotify}) {
		t.Errorf("sent %+v", got)
	}
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, far := pipe(t)
		record := p.data("data")
		for i := range record {
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Time{})
			go far.Write(record[i : i+1])
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "data" {
			t.Errorf("%q and %v", got, err)
		}
		c.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c.Write(got); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		c.SetWriteDeadline(time.Time{})
		if _, err := c.Write(got); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		c.Close()
	})
}

// TestConcurrency reads, writes, looks and closes at the same time, for the race detector.
func TestConcurrency(t *testing.T) {
	for range 5 {
		nc, ns := tcpPair(t)
		state := newState(tls.TLS_AES_128_GCM_SHA256)
		a, b := newConn(t, nc, state.peer()), newConn(t, ns, state)
		var all sync.WaitGroup
		stop := make(chan struct{})
		some := make(chan struct{}, 2)
		for _, c := range []*Conn{a, b} {
			all.Go(func() {
				for n := 0; ; n = (n + 9999) % (3 * maxPlaintext) {
					if _, err := c.Write(pattern(n)); err != nil {
						return
					}
					select {
					case some <- struct{}{}:
					default:
					}
				}
			})
			all.Go(func() {
				if _, err := io.Copy(io.Discard, struct{ io.Reader }{c}); errors.As(err, new(tls.AlertError)) {
					t.Error(err)
				}
			})
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					c.Holds()
					c.Pending()
					c.requested.Store(true)
					if _, ok := c.Export(); ok {
						c.Resume()
					}
				}
			})
		}
		<-some
		<-some
		for _, c := range []*Conn{b, a} {
			c.CloseWrite()
			c.Close()
		}
		close(stop)
		all.Wait()
	}
}

// TestAlertIsSentOnce has the reader find a violation while a writer comes and goes.
func TestAlertIsSentOnce(t *testing.T) {
	for range 200 {
		state := newState(tls.TLS_AES_128_GCM_SHA256)
		layer, p := newMemory(), newPeer(t, state)
		c := newConn(t, layer, state)
		layer.toRead = p.record(typeHandshake, 1)
		var all sync.WaitGroup
		all.Go(func() { readAll(c) })
		all.Go(func() {
			for i := 0; i < 100 && c.out.refused.Load() == nil; i++ {
				c.Write([]byte("data"))
			}
		})
		all.Wait()
		got := p.receive(t, layer.sent())
		if !slices.Equal(got.alerts, []tls.AlertError{alertUnexpectedMessage}) {
			t.Fatalf("sent alerts %v", got.alerts)
		}
	}
}

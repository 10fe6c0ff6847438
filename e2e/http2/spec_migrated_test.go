package http2

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// migrator stands between h2spec and a service, and has each connection migrate between its preface and its
// first request.
type migrator struct {
	t       *testing.T
	service *service.Baton
	end     func()       // ends the connection that was the last to agree; h2spec has one after the other
	agreed  atomic.Int64 // connections whose preface was whole
	moved   atomic.Int64 // of these
}

// startMigrator returns one in front of a service of its own, and the address to ask.
func startMigrator(t *testing.T, flags ...string) (m *migrator, address string) {
	t.Helper()
	m = &migrator{t: t, service: service.Start(t, service.Args(flags...)), end: func() {}}
	ln, err := net.Listen("tcp", service.Loopback()+":0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			accepting.Go(func() { m.pass(client.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { ln.Close(); accepting.Wait() })
	return m, ln.Addr().String()
}

// pass passes on what both sides of a connection send, and lets the service upgrade in between.
func (m *migrator) pass(client *net.TCPConn) {
	defer client.Close()
	nc, err := net.Dial("tcp", m.service.Address)
	if err != nil {
		m.t.Error(err)
		return
	}
	defer nc.Close()
	server := nc.(*net.TCPConn)
	answered, passed := make(chan struct{}), make(chan struct{})
	defer close(passed)
	go func() {
		defer close(answered)
		io.Copy(client, server)
		client.CloseWrite()
	}()
	var sent []byte
	part := make([]byte, 64<<10)
	for migrated := false; ; {
		n, err := client.Read(part)
		if err != nil {
			break
		}
		rest := part[:n]
		if !migrated {
			sent = append(sent, rest...)
			if end := endOfPreface(sent); end > 0 {
				migrated = true
				begins := end - (len(sent) - n)
				server.Write(rest[:begins])
				rest = rest[begins:]
				m.end() // it may have been left open, and a drain would wait for it
				m.end = func() { client.Close(); server.Close(); <-passed }
				u := m.service.TryUpgrade()
				if u.Code != 0 {
					m.t.Errorf("upgrade: got exit code %d, %s", u.Code, u.Errors)
				}
				m.agreed.Add(1)
				m.moved.Add(int64(min(u.Predecessor.Moved, 1))) // beside it there may be one on which h2spec has asked nothing
			}
		}
		if _, err := server.Write(rest); err != nil {
			break
		}
	}
	server.CloseWrite()
	<-answered
}

// endOfPreface returns where the first acknowledgement of SETTINGS ends, with which a client has agreed to a
// connection, or 0 if that has not come.
func endOfPreface(sent []byte) int {
	frame, found := bytes.CutPrefix(sent, []byte(http2.ClientPreface))
	for found && len(frame) >= 9 {
		length := 9 + int(binary.BigEndian.Uint32(frame)>>8)
		if len(frame) < length {
			break
		}
		isAck := http2.FrameType(frame[3]) == http2.FrameSettings && http2.Flags(frame[4]).Has(http2.FlagSettingsAck)
		if frame = frame[length:]; isAck {
			return len(sent) - len(frame)
		}
	}
	return 0
}

// A connection that has migrated keeps to the specification as before.
func TestHTTP2SpecAfterMigration(t *testing.T) {
	tier.Long(t, "upgrades before each case of h2spec")
	t.Parallel()
	h2spec := buildH2spec(t)
	target := backend.Start(t, http.HandlerFunc(slowHello))
	var migrators []*migrator
	asked, failed := runH2spec(t, h2spec, func() string {
		m, address := startMigrator(t, "-proxy", "/="+target)
		migrators = append(migrators, m)
		return address
	}, false)
	var agreed, moved int64
	for _, m := range migrators {
		agreed, moved = agreed+m.agreed.Load(), moved+m.moved.Load()
	}
	t.Logf("%d cases; %d of %d connections migrated", asked, moved, agreed)
	if moved != agreed || moved < int64(asked)*9/10 {
		t.Errorf("%d of %d connections migrated in %d cases, want all, and one in each but those about the preface", moved, agreed, asked)
	}
	for name, why := range failed {
		if knownFailures[name] == "" && !slices.Contains(ownFailures, name) {
			t.Errorf("%s\nwanted, and got last:\n%s", name, why)
		}
	}
}

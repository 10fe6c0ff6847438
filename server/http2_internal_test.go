package server

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server/internal/frames"
	"example.com/baton/server/internal/streams"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
)

// split cuts p into pieces of random sizes.
func split(p []byte, seed uint64) [][]byte {
	random := rand.New(rand.NewPCG(seed, 0))
	var pieces [][]byte
	for len(p) > 0 {
		n := 1 + random.IntN(min(len(p), 1+random.IntN(40)))
		pieces = append(pieces, p[:n])
		p = p[n:]
	}
	return pieces
}

// passing is a socket that keeps what is written, and yields what is to be read in
// pieces of random sizes.
type passing struct {
	net.Conn
	written bytes.Buffer
	pieces  [][]byte
}

func (p *passing) Write(b []byte) (int, error) { return p.written.Write(b) }

func (p *passing) Read(b []byte) (int, error) {
	if len(p.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.pieces[0])
	if p.pieces[0] = p.pieces[0][n:]; len(p.pieces[0]) == 0 {
		p.pieces = p.pieces[1:]
	}
	return n, nil
}

func (p *passing) SetReadDeadline(time.Time) error { return nil }

func (p *passing) SetWriteDeadline(time.Time) error { return nil }

// randomFrames returns frames as peers send them.
func randomFrames(random *rand.Rand) []byte {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	for range 1 + random.IntN(10) {
		some := make([]byte, random.IntN(60))
		switch random.IntN(5) {
		case 0:
			fr.WriteSettings()
		case 1:
			fr.WriteData(1, false, some)
		case 2:
			more := random.IntN(3)
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: some, EndHeaders: more == 0})
			for ; more > 0; more-- {
				fr.WriteContinuation(1, more == 1, some)
			}
		case 3:
			fr.WriteWindowUpdate(0, 1)
		case 4:
			fr.WritePing(false, [8]byte{})
		}
	}
	return b.Bytes()
}

// putIn checks that got is want with extra put in at one boundary, at or beyond
// after and not beyond the next one.
func putIn(t *testing.T, got, want, extra []byte, after int) {
	t.Helper()
	at := bytes.Index(got, extra)
	if at < 0 {
		t.Fatalf("%d bytes passed, and nothing is put in", len(got))
	}
	if rest := append(bytes.Clone(got[:at]), got[at+len(extra):]...); !bytes.Equal(rest, want) {
		t.Fatal("what passed is not what was sent, with something put in")
	}
	var followed frames.Follower
	first := -1
	for i, b := range want {
		followed.Follow([]byte{b}, func(frames.Frame) {})
		if i+1 >= after && followed.Between() && followed.Seen() {
			first = i + 1
			break
		}
	}
	if at != first {
		t.Errorf("put in at %d, want %d, the first boundary from %d on", at, first, after)
	}
}

// FuzzPutIn splits a conversation at random, and has the drain begin anywhere.
func FuzzPutIn(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	s := New(Options{Handler: http.NotFoundHandler(), DisableMigration: true}) // what passes is not changed
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		sent := randomFrames(random)
		socket := new(passing)
		h := newHTTP2Conn(s.newConn(socket, nil))
		from, at := random.IntN(len(sent)), 0
		begun := -1
		for _, piece := range split(sent, seed) {
			if begun < 0 && at >= from {
				begun = at
				h.notice()
			}
			if n, err := h.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
			at += len(piece)
		}
		if begun < 0 {
			begun = at
			h.notice()
		}
		putIn(t, socket.written.Bytes(), sent, drainNotice, begun)

		// A refusal is put in as well, and nothing follows on it.
		socket = new(passing)
		h = newHTTP2Conn(s.newConn(socket, nil))
		r := &refusal{goAway: []byte("a GOAWAY"), sent: make(chan struct{})}
		at, begun = 0, -1
		var err error
		for _, piece := range split(sent, seed) {
			if begun < 0 && at >= from {
				begun = at
				h.refusal.Store(r)
				h.tryInterject()
			}
			if _, err = h.Write(piece); err != nil {
				break
			}
			at += len(piece)
		}
		if err != nil || begun >= 0 && h.sent.Between() {
			<-r.sent
			passed, over := bytes.CutSuffix(socket.written.Bytes(), r.goAway)
			if !over || !bytes.HasPrefix(sent, passed) {
				t.Fatal("what passed is not what was sent, with a refusal at its end")
			}
			putIn(t, append(socket.written.Bytes(), sent[len(passed):]...), sent, r.goAway, begun)
		}

		came := randomFrames(random)
		socket = &passing{pieces: split(came, seed)}
		h = newHTTP2Conn(s.newConn(socket, nil))
		h.in = bufio.NewReaderSize(h.conn.layer, 16)
		h.noticing.Store(true)
		from, begun = random.IntN(len(came)), -1
		ended := false
		var got []byte
		for {
			if !ended && len(got) >= from {
				ended = true
				h.end()
			}
			if ended && begun < 0 && h.received.Between() && h.received.Seen() && h.in.Buffered() < frames.HeaderLen { // else more has come before
				begun = len(got)
			}
			p := make([]byte, 1+random.IntN(50))
			n, err := h.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				break
			}
		}
		putIn(t, got, came, clientGoAway, begun)
	})
}

// A frame that passes in a hold is not lost when that ends in this moment.
func TestFrameAtTheEndOfAHold(t *testing.T) {
	held := frames.Append(nil, frames.Headers, frames.FlagEndHeaders|frames.FlagEndStream, 7, []byte("fields"))
	passes := frames.Append(nil, frames.Data, 0, 5, []byte("a body"))
	next := frames.Append(nil, frames.Ping, 0, 0, make([]byte, 8))
	s := New(Options{Handler: http.NotFoundHandler()})
	h := newHTTP2Conn(s.newConn(&passing{pieces: [][]byte{passes, next}}, nil))
	h.streams.Received(frames.Frame{Type: frames.Headers, Flags: frames.FlagEndHeaders, Stream: 5})
	h.mu.Lock()
	h.startHold()
	h.hold.held = held
	for len(h.ready) == 0 {
		if err := h.gather(); err != nil {
			t.Fatal(err)
		}
	}
	h.hold.until = time.Now()
	h.mu.Unlock()
	if got, _ := io.ReadAll(h); !bytes.Equal(got, slices.Concat(passes, held, next)) {
		t.Errorf("got %q, want what passes, what was held, and what follows", got)
	}
}

// A reader that was about to offer the connection goes on when the drain's notice is sent.
func TestNoticeMeetsAnOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		s := New(Options{})
		h := newHTTP2Conn(s.newConn(far, nil))
		h.sent = frames.Resume()
		go h.notice()
		synctest.Wait() // it is being written
		goesOn := false
		go func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.offer()
			goesOn = true
		}()
		synctest.Wait()
		io.ReadFull(near, make([]byte, len(drainNotice)))
		synctest.Wait()
		if !goesOn {
			t.Error("the reader still waits")
		}
		nudge(h.changed)
	})
}

// unopenedPipe is a connection in memory as it comes over the link.
type unopenedPipe struct{ net.Conn }

func (u unopenedPipe) Open() (net.Conn, error) { return u.Conn, nil }

// A drain may begin while an adopted connection is being opened.
func TestNoticeMeetsAnOpening(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	s := New(Options{})
	c := s.newConn(unopenedPipe{far}, nil)
	state := &http2State{Streams: streams.State{Last: 1, Send: 1 << 16, Receive: 1 << 16}}
	if !c.adoptHTTP2(state, 0) {
		t.Fatal("the state is invalid")
	}
	var noticing sync.WaitGroup
	noticing.Go(c.follower().(*http2Conn).notice)
	if !c.open() { // the race detector looks at this
		t.Error("it is not opened")
	}
	noticing.Wait()
}

// A client that reads nothing is refused in the time for that, however long it may take
// for a response.
func TestRefusalOfAClientThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		s := New(Options{Logger: slog.New(slog.DiscardHandler), WriteTimeout: time.Hour})
		h := newHTTP2Conn(s.newConn(far, nil))
		h.sent.Follow(frames.Append(nil, frames.Settings, 0, 0, nil), func(frames.Frame) {})
		begin := time.Now()
		h.refuse("frames")
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("took %v, want 5 s", took)
		}
	})
}

// The client of a connection that has migrated meanwhile is sent nothing.
func TestNoticeAfterTheConnectionHasMigrated(t *testing.T) {
	socket := new(passing)
	h := newHTTP2Conn(New(Options{Handler: http.NotFoundHandler()}).newConn(socket, nil))
	h.sent = frames.Resume()
	h.migrated = true
	h.notice()
	h.Write(frames.Append(nil, frames.WindowUpdate, 0, 0, make([]byte, 4)))
	if got := socket.written.Bytes(); len(got) > 0 {
		t.Errorf("%x is written to the successor's connection", got)
	}
}

// A connection that is closed forcibly before it is offered is not offered again and again.
func TestAdoptedConnectionIsClosedBeforeItIsOffered(t *testing.T) {
	s := New(Options{Handler: http.NotFoundHandler()})
	s.http2 = func() http2Support { return http2Support{speaks: true, drains: true, migrates: true} }
	s.session.Store(&migrator{number: 1, kept: map[net.Listener]bool{nil: true}, h: upgrade.Handoff{States: true}})
	near, far := net.Pipe()
	defer near.Close()
	c := s.newConn(far, nil)
	state := &http2State{Streams: streams.State{Last: 1, Send: 1 << 16, Receive: 1 << 16}}
	if !c.adoptHTTP2(state, 0) {
		t.Fatal("the state is invalid")
	}
	c.Close()
	ended := make(chan bool)
	go func() { ended <- c.follower().awaitFirstByte() }()
	select {
	case begins := <-ended:
		if begins {
			t.Error("net/http gets it")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is offered without end")
	}
}

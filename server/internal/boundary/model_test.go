package boundary

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"time"
)

// FuzzMachine has a model of net/http's conn.serve, which reads through a bufio.Reader of its
// own, drive a Machine, while clients, the migrator and the sweep do what the input says. At every
// moment the model knows whether it holds a byte.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x03\x00\x00\x00\xff\x04\x00\x01\x05\x01\x02\x05\x01"))
	f.Add([]byte("\x01\x00\x01\x00\x05\x02\x00\x00\x09\x04\x03\x02\x05\x00\x00\x01\x04"))
	f.Add([]byte("\x02\x00\x00\x01\xff\x04\x07\x00\x02\x01\x04\x01\x05\x01\x00\x00\x02\xff\x04"))
	f.Fuzz(func(t *testing.T, choices []byte) {
		mo := &model{t: t, choices: choices[:min(len(choices), 2000)], remain: 1 << 30}
		mo.in = bufio.NewReader((*connReader)(mo))
		if kind := mo.choose(3); kind > 0 {
			mo.wanted = start.Add(time.Minute)
			mo.m, mo.adopted = Adopt(Exported{Used: kind == 1, Deadline: mo.wanted}), true
			mo.socket = mo.wanted
			if !mo.awaitFirstByte() {
				return
			}
		}
		mo.serve()
		mo.do(mo.m.Close())
		mo.do(mo.m.Close())
		if mo.window != 0 {
			t.Errorf("%d places in the window are kept", mo.window)
		}
		read := mo.sent[:len(mo.sent)-len(mo.kernel)]
		var q requests
		if want := read[:q.follow(read)]; !bytes.Equal(mo.got, want) {
			t.Errorf("net/http got %q, want %q", mo.got, want)
		}
	})
}

var (
	past      = time.Unix(1, 0)
	headerEnd = start.Add(10 * time.Minute) // marks for what actions ask for
	bodyEnd   = start.Add(11 * time.Minute)
	errReset  = errors.New("reset")
)

// model is net/http, its connection's shell, and all that is around.
type model struct {
	t       *testing.T
	m       Machine
	choices []byte
	now     time.Duration

	// The client, and the kernel.
	script, sent, kernel []byte
	socket               time.Time // the read deadline

	// net/http.
	in         *bufio.Reader
	got        []byte // all that its Reads have returned
	end        int    // of the last request in got
	within     bool   // a request is served
	hasByte    bool   // of a background read
	byteBuf    [1]byte
	remain     int
	background bool      // such a Read is under way
	wanted     time.Time // the deadline that it set
	adopted    bool      // the deadline is not net/http's yet
	window     int
}

// choose returns a number below n. When the input is at its end, the client goes.
func (mo *model) choose(n int) int {
	if len(mo.choices) == 0 {
		return 0
	}
	c := int(mo.choices[0]) % n
	mo.choices = mo.choices[1:]
	return c
}

func (mo *model) over() bool { return len(mo.choices) == 0 }

var messages = []string{
	get,
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
	"\r\n",
	get + get + get[:10],
	"GET / HTTP/1.1\r\nHost: x\r\nX: " + string(bytes.Repeat([]byte("x"), whole)) + "\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\n" + "X: " + string(bytes.Repeat([]byte("x"), whole-30)) + "\r\n" + "\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	Preface,
	"garbage\r\n\r\n",
}

func (mo *model) send() {
	if len(mo.script) == 0 {
		mo.script = []byte(messages[mo.choose(len(messages))])
	}
	n := min(len(mo.script), 1+mo.choose(40)*mo.choose(200))
	mo.sent = append(mo.sent, mo.script[:n]...)
	mo.kernel = append(mo.kernel, mo.script[:n]...)
	mo.script = mo.script[n:]
}

// do does what the shell does.
func (mo *model) do(do Action) Action {
	switch {
	case do&WakeUp != 0:
		mo.socket = past
		switch mo.m.State() {
		case WokenToOffer, HTTP2Woken:
			mo.window++
		}
	case do&HeaderDeadline != 0:
		mo.socket, mo.adopted = headerEnd, false
	case do&BodyDeadline != 0:
		mo.socket = bodyEnd
	case do&RestoreDeadline != 0:
		if mo.socket = mo.m.Deadline(); !mo.socket.Equal(mo.wanted) {
			mo.t.Fatalf("the deadline is %v, want %v", mo.socket, mo.wanted)
		}
	}
	if do&LeaveWindow != 0 {
		if mo.window--; mo.window < 0 {
			mo.t.Fatal("a place in the window is given back twice")
		}
	}
	if do&(Expired|Reclaimed) != 0 {
		mo.holdsNothing("closed")
		if len(mo.kernel) > 0 {
			mo.t.Fatal("closed, although bytes have arrived")
		}
	}
	return do
}

func (mo *model) holdsNothing(when string) {
	if mo.within || len(mo.got) > mo.end {
		mo.t.Fatalf("%s in state %v, but net/http holds %q, request under way: %v", when, mo.m.State(), mo.got[mo.end:], mo.within)
	}
}

// rest is called when the connection is said to be at rest.
func (mo *model) rest() Action {
	mo.holdsNothing("at rest")
	for mo.choose(4) == 1 && mo.m.Offer() {
		if _, ok := mo.m.Export(); !ok {
			mo.t.Fatal("offered, but not exported")
		}
		switch mo.choose(3) {
		case 0: // kept
		case 1:
			return mo.do(mo.m.Answer(true))
		case 2:
			mo.do(mo.m.Close())
		}
		mo.do(mo.m.Answer(false))
	}
	mo.now += time.Second
	return mo.do(mo.m.Block(start.Add(mo.now)))
}

// wake is what the migrator, the sweep and others do at any time.
func (mo *model) wake() {
	switch mo.choose(5) {
	case 1:
		mo.do(mo.m.Wake(ToOffer))
	case 2:
		mo.do(mo.m.Wake(ToReclaim))
	case 3:
		mo.now += time.Second
		_, do := mo.m.Expire(start.Add(mo.now), 2*time.Second)
		mo.do(do)
	case 4:
		mo.send()
	}
}

// block is a Read from the socket.
func (mo *model) block(p []byte) (n int, r Result) {
	for {
		if mo.m.IsClosed() {
			return 0, Failed
		}
		choice := mo.choose(6)
		switch {
		case len(mo.kernel) > 0 && (choice == 4 || mo.over()):
			n = copy(p, mo.kernel)
			mo.kernel = mo.kernel[n:]
			return n, OK
		case mo.socket.Equal(past) && (choice == 5 || mo.over()): // a Read prefers the deadline
			return 0, Timeout
		case mo.over():
			return 0, Failed
		case choice == 0:
			mo.send()
		case choice == 1:
			mo.wake()
		case choice == 2 && len(mo.kernel) == 0:
			return 0, Timeout
		case choice == 3 && mo.background: // the handler ends
			mo.setDeadline(past)
			return 0, Timeout
		}
	}
}

func (mo *model) below() Below {
	if len(mo.kernel) > 0 {
		return Arrived
	}
	return Empty
}

// read is the shell's Read.
func (mo *model) read(p []byte) (int, error) {
	do := mo.do(mo.m.Read(len(p), true))
	for {
		if do&Rest != 0 {
			do = mo.rest()
		}
		if do&EOF != 0 {
			return 0, io.EOF
		}
		n, r := mo.block(p)
		n, do = mo.m.Returned(p[:n], r, mo.below())
		mo.got = append(mo.got, p[:n]...)
		if mo.do(do)&(Rest|Continue|EOF) != 0 {
			continue
		}
		if !mo.m.IsClosed() && !mo.background && mo.socket.Equal(past) {
			mo.t.Fatal("the deadline that woke the Read is left to net/http")
		}
		return n, map[Result]error{Timeout: os.ErrDeadlineExceeded, Failed: errReset}[r]
	}
}

// awaitFirstByte is what happens to an adopted connection before net/http gets it.
func (mo *model) awaitFirstByte() bool {
	for {
		if mo.rest()&EOF != 0 {
			return false
		}
		n, r := mo.block(nil)
		if r == OK {
			r = Readable
		}
		if _, do := mo.m.Returned(nil, r, mo.below()); mo.do(do)&Rest == 0 {
			return r == Readable && n == 0
		}
	}
}

func (mo *model) setDeadline(t time.Time) {
	if !mo.adopted {
		mo.wanted = t
	}
	mo.do(mo.m.SetDeadline(t))
}

// connReader is that of net/http.
type connReader model

func (r *connReader) Read(p []byte) (int, error) {
	if r.remain <= 0 {
		return 0, io.EOF
	}
	p = p[:min(len(p), r.remain)]
	if r.hasByte {
		p[0], r.hasByte = r.byteBuf[0], false
		return 1, nil
	}
	n, err := (*model)(r).read(p)
	r.remain -= n
	return n, err
}

func (mo *model) hasPreface(n int) bool {
	mo.remain = n - mo.in.Buffered()
	got, err := mo.in.Peek(n)
	mo.remain = 1 << 30
	return err == nil && string(got) == Preface[:n]
}

// serve is conn.serve.
func (mo *model) serve() {
	mo.setDeadline(start.Add(time.Second))
	if mo.hasPreface(probe) && mo.hasPreface(len(Preface)) {
		if mo.m.State() != HTTP2 {
			mo.t.Errorf("in state %v after a preface", mo.m.State())
		}
		return
	}
	for {
		mo.setDeadline(start.Add(2 * time.Second))
		r, err := http.ReadRequest(mo.in)
		mo.within = true
		mo.m.BecomeActive(mo.choose(2) == 1, start.Add(mo.now))
		if err != nil {
			return
		}
		mo.wake()
		mo.m.Handle(r.ContentLength != 0)
		if !mo.handler(r) || r.Close {
			return
		}
		mo.end, mo.within = len(mo.got)-mo.in.Buffered(), false
		if mo.hasByte {
			mo.end--
		}
		mo.m.BecomeIdle()
		mo.wake()
		mo.setDeadline(start.Add(3 * time.Second))
		mo.wake()
		if _, err := mo.in.Peek(4); err != nil {
			return
		}
		mo.setDeadline(time.Time{})
	}
}

// handler is the handler, and what net/http does before and after it.
func (mo *model) handler(r *http.Request) (whole bool) {
	if mo.choose(4) == 1 {
		mo.setDeadline(start.Add(4 * time.Second)) // its own
	}
	for mo.choose(2) == 1 {
		if _, err := r.Body.Read(make([]byte, 1+mo.choose(3)*whole4)); err != nil {
			break
		}
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return false
	}
	if mo.choose(2) == 1 {
		mo.setDeadline(time.Time{})
		mo.background = true
		n, _ := mo.read(mo.byteBuf[:])
		mo.background, mo.hasByte = false, n == 1
		mo.setDeadline(time.Time{})
	}
	return true
}

const whole4 = whole + whole/2 // more than the buffer, so that bufio reads into it

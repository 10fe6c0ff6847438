package link

import (
	"encoding/json"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Protocol is the newest version of the protocol that this release speaks. It is a
// variable for the linker, with which the tests make a release of the past.
var Protocol = "4"

// Version returns Protocol as a number.
func Version() int {
	n, err := strconv.Atoi(Protocol)
	if err != nil {
		panic("upgrade: the version of the link is not a number: " + Protocol)
	}
	return n
}

// Type is the type of a message.
type Type string

// The types of messages, by who sends them. PROTOCOL.md has them in detail.
const (
	TypeHello       Type = "hello"       // both: the sender introduces itself
	TypeQuestion    Type = "question"    // both: a request for a report
	TypeReport      Type = "report"      // both: load and counts of the sender; from the predecessor also unasked
	TypePrepared    Type = "prepared"    // successor: it could accept from its listeners
	TypeTakeOver    Type = "takeover"    // predecessor: the successor shall accept
	TypeServing     Type = "serving"     // successor: it accepts from its listeners
	TypeCommit      Type = "commit"      // predecessor: the successor shall commit
	TypeTakeBack    Type = "takeback"    // predecessor: the successor shall return its connections, and exit
	TypeReturning   Type = "returning"   // successor: it does so
	TypeDrained     Type = "drained"     // predecessor: it is about to exit; with its last report
	TypeUpgrade     Type = "upgrade"     // predecessor: a trigger; with the control connection that it has come by
	TypeStop        Type = "stop"        // predecessor: a stop was requested
	TypeOffer       Type = "offer"       // predecessor, or a successor that returns: connections that may migrate
	TypeTransfer    Type = "transfer"    // the same for connections that have a state
	TypeTaken       Type = "taken"       // the other: it has them, but for the refused ones
	TypePredecessor Type = "predecessor" // predecessor: the link to one before it, which still drains
)

// Message is what one generation sends to the other. Which fields are set follows from
// the type; PROTOCOL.md documents which. Load, Drained and Upgrades are JSON of the generations'
// own, which the link does not look into.
type Message struct {
	Type Type `json:"type"`

	Hello     *Hello          `json:"hello,omitempty"`
	Claims    []Claim         `json:"claims,omitempty"`
	Adopts    bool            `json:"adopts,omitempty"`    // connections can migrate to the sender
	Pipe      uint64          `json:"pipe,omitempty"`      // inode of the pipe by whose end the sender notices that of its predecessor
	Reason    string          `json:"reason,omitempty"`    // of a take-back
	Origin    int             `json:"origin,omitempty"`    // generation that got the signal to upgrade; 0: unknown
	Overrides json.RawMessage `json:"overrides,omitempty"` // of the trial, by the client that has requested the upgrade
	Question  uint64          `json:"question,omitempty"`  // number of a request for a report
	Report    *Report         `json:"report,omitempty"`
	Drained   json.RawMessage `json:"drained,omitempty"`
	Batch     uint64          `json:"batch,omitempty"` // number of an offer or a transfer
	Offered   []Offered       `json:"offered,omitempty"`
	Refused   []int           `json:"refused,omitempty"` // which of the offered connections, from 0
	Due       time.Time       `json:"due,omitzero"`      // when the predecessor that is passed on should be gone

	Sent  time.Time     `json:"sent,omitzero"`   // by the wall clock, to which all other times are relative
	Clock time.Duration `json:"clock,omitempty"` // the same moment by CLOCK_MONOTONIC; 0: the sender does not stamp

	// States are those of the offered connections, in the same order. Only encode marshals
	// them.
	States []State `json:"states,omitempty"`

	received
}

// received is what is known of a message that has been received.
type received struct {
	fds    []int // descriptors that came along; they belong to whoever has the message
	spare  int   // how many of them this process has room for
	sender int   // pid, as the kernel knows it; 0: unknown
}

// Hello introduces a generation. All but the first five fields are the predecessor's.
type Hello struct {
	Protocol   int       `json:"protocol"`
	PID        int       `json:"pid"`
	Version    string    `json:"version"`
	Started    time.Time `json:"started"`
	Generation int       `json:"generation,omitempty"`

	Trigger  string             `json:"trigger,omitempty"` // of this upgrade
	Origins  []int              `json:"origins,omitempty"` // generations that have got a signal for it
	Asked    time.Time          `json:"asked,omitzero"`    // when that was
	Begun    time.Time          `json:"begun,omitzero"`    // when the successor was started
	Deadline time.Time          `json:"deadline,omitzero"` // when a successor that is not ready is killed
	Drain    time.Duration      `json:"drain,omitempty"`   // how long the drain may take, hooks included
	Claims   []Claim            `json:"claims,omitempty"`
	PIDFile  string             `json:"pid_file,omitempty"`
	Upgrades json.RawMessage    `json:"upgrades,omitempty"`
	Counts   map[string]float64 `json:"counted,omitempty"` // until there is a report
	Secret   []byte             `json:"secret,omitempty"`
}

// Claim is what the next generation must know of a listener.
type Claim struct {
	Asked string `json:"asked,omitempty"` // the address as configured; its port may be 0
	Bound string `json:"bound"`           // the address as bound
	Inode uint64 `json:"inode,omitempty"` // of a unix socket's path
	Kept  bool   `json:"kept,omitempty"`  // the listener store has it for the case that this process dies
	Held  bool   `json:"held,omitempty"`  // the listener store has it on its own account

	// KeptAs is the name under which the store has it, whatever has become of Asked since.
	KeptAs string `json:"kept_as,omitempty"`
}

// Report is the state of a generation for its neighbor.
type Report struct {
	State string          `json:"state"`
	Load  json.RawMessage `json:"load"`
	// Counts are those of the sender and of all generations beyond it, as seen from
	// the receiver.
	Counts map[string]float64 `json:"counts,omitempty"`
	// Outcomes are those of the sender's requests, and Trial is the trial that it runs.
	Outcomes json.RawMessage `json:"outcomes,omitempty"`
	Trial    json.RawMessage `json:"trial,omitempty"`
	// Answers is the number of the question that the report answers; 0: none.
	Answers uint64 `json:"answers,omitempty"`
}

// Offered is a connection that the predecessor offers.
type Offered struct {
	Bound string        `json:"bound"` // the address of the listener
	Used  bool          `json:"spoke,omitempty"`
	Left  time.Duration `json:"left,omitempty"`
	Peer  bool          `json:"peer,omitempty"` // a second descriptor belongs to it
}

// Sender returns the pid of the process that has sent the message, as the kernel knows
// it; 0 if it is unknown.
func (m *Message) Sender() int { return m.sender }

// TakeFile returns the next descriptor that came with the message, or nil. room is false
// if this process should rather not have it: Room is how many it may use.
func (m *Message) TakeFile() (f *os.File, room bool) {
	if len(m.fds) == 0 {
		return nil, false
	}
	f = os.NewFile(uintptr(m.fds[0]), "received")
	m.fds = m.fds[1:]
	m.spare--
	return f, m.spare >= 0
}

// TakeConn returns the connection that came with the message, or nil.
func (m *Message) TakeConn() net.Conn {
	f, _ := m.TakeFile()
	if f == nil {
		return nil
	}
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		return nil
	}
	return nc
}

// Close closes the descriptors that came with the message and were not taken, and clears the
// states.
func (m *Message) Close() {
	for _, s := range m.States {
		clear(s)
	}
	for _, fd := range m.fds {
		unix.Close(fd)
	}
	m.fds = nil
}

// request returns where the number of a request is, and the type of its response; nil for
// any other message.
func (m *Message) request() (number *uint64, response Type) {
	switch m.Type {
	case TypeQuestion:
		return &m.Question, TypeReport
	case TypeOffer, TypeTransfer:
		return &m.Batch, TypeTaken
	}
	return nil, ""
}

// response returns as which type of response the message counts, and the number of its
// request; 0: it is no response.
func (m *Message) response() (as Type, number uint64) {
	switch {
	case m.Type == TypeTaken:
		return TypeTaken, m.Batch
	case m.Report != nil:
		return TypeReport, m.Report.Answers
	}
	return "", 0
}

package tlskeys

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	ticketRotation = 24 * time.Hour     // a new key is used
	ticketLife     = 7 * 24 * time.Hour // tickets of a key are accepted; RFC 8446, 4.6.1 allows no more
)

// TicketKeys encrypt the session tickets of TLS: a new one each day, accepted for
// a week, as crypto/tls does it by itself within one process. Each is made a day
// before it is used: during an upgrade two generations encrypt, and the successor
// should know whatever key its predecessor comes to use meanwhile.
type TicketKeys struct {
	mu   sync.Mutex
	keys []ticketKey // newest first; the first is for later
	now  func() time.Time
	into []*tls.Config
}

type ticketKey struct {
	Key  [32]byte  `json:"key"`
	From time.Time `json:"from"` // when it begins to be used
}

// NewTicketKeys returns keys that go on with those of a predecessor, of which secret is the
// [TicketKeys.Secret]; nil: with none. An error means that these cannot be read. The keys that
// are returned with it are new, and valid.
func NewTicketKeys(secret []byte) (*TicketKeys, error) {
	k := &TicketKeys{now: time.Now}
	var err error
	if len(secret) > 0 {
		err = json.Unmarshal(secret, &k.keys)
		if slices.ContainsFunc(k.keys, func(key ticketKey) bool { return key.Key == [32]byte{} }) {
			err = errors.New("a key is missing")
		}
		if err != nil {
			k.keys, err = nil, fmt.Errorf("read the predecessor's ticket keys: %w", err)
		}
	}
	k.Rotate()
	return k, err
}

// Secret returns the keys for a successor. Who has it can read recorded sessions
// of TLS 1.2.
func (k *TicketKeys) Secret() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	secret, _ := json.Marshal(k.keys) // of numbers and times
	return secret
}

// Use makes a configuration use the keys, and those to come.
func (k *TicketKeys) Use(config *tls.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.into = append(k.into, config)
	k.set(config)
}

// Rotate uses a new key if that in use is a day old, and forgets those older than
// a week. It is to be called now and then.
func (k *TicketKeys) Rotate() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	k.keys = slices.DeleteFunc(k.keys, func(key ticketKey) bool {
		age := now.Sub(key.From)
		return age >= ticketLife || age < -2*ticketRotation // made when the clock was wrong
	})
	if len(k.keys) == 0 || now.Sub(k.keys[0].From) >= ticketRotation { // the first of all, or after a long sleep
		k.add(now)
	}
	if !k.keys[0].From.After(now) {
		k.add(k.keys[0].From.Add(ticketRotation))
	}
	for _, config := range k.into {
		k.set(config)
	}
}

func (k *TicketKeys) add(from time.Time) {
	key := ticketKey{From: from}
	rand.Read(key.Key[:]) // never fails
	k.keys = append([]ticketKey{key}, k.keys...)
}

func (k *TicketKeys) set(config *tls.Config) {
	var used, later [][32]byte
	for _, key := range k.keys {
		if key.From.After(k.now()) {
			later = append(later, key.Key)
		} else {
			used = append(used, key.Key)
		}
	}
	config.SetSessionTicketKeys(append(used, later...)) // the first encrypts
}

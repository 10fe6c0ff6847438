package tls13_test

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"example.com/baton/server/internal/tls13"
)

// A connection goes on with what another process was sent as JSON.
func ExampleConn_Export() {
	// What crypto/tls has negotiated.
	secret := func() tls13.Secret { s := make([]byte, 32); rand.Read(s); return s }
	state := tls13.State{Suite: tls.TLS_AES_128_GCM_SHA256,
		In: tls13.Half{Secret: secret()}, Out: tls13.Half{Secret: secret()}}
	near, far := net.Pipe()
	client, err := tls13.New(far, tls13.State{Suite: state.Suite, In: state.Out, Out: state.In})
	if err != nil {
		panic(err)
	}
	go func() {
		client.Write([]byte("for the predecessor"))
		client.Write([]byte("for the successor"))
		client.Close()
	}()

	predecessor, err := tls13.New(near, state)
	if err != nil {
		panic(err)
	}
	text := make([]byte, len("for the predecessor"))
	io.ReadFull(predecessor, text)
	fmt.Printf("%s\n", text)

	exported, ok := predecessor.Export()
	if !ok {
		panic("not at rest")
	}
	fmt.Println(exported.In.Secret)
	sent, err := json.Marshal(exported)
	if err != nil {
		panic(err)
	}
	predecessor.Discard()

	var received tls13.State
	if err := json.Unmarshal(sent, &received); err != nil {
		panic(err)
	}
	successor, err := tls13.New(near, received)
	if err != nil {
		panic(err)
	}
	text, err = io.ReadAll(successor)
	fmt.Printf("%s %v\n", text, err)
	// Output:
	// for the predecessor
	// [redacted]
	// for the successor <nil>
}

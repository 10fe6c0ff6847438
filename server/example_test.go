package server_test

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// A whole program: `kill -HUP` replaces it by the one that is in its place
// then, and no request is lost.
func Example() {
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello from", os.Getpid()) }

	signals := upgrade.Signals()
	gen, err := upgrade.New(upgrade.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := gen.Listen("127.0.0.1:8081")
	if err != nil {
		log.Fatal(err)
	}
	srv := server.New(server.Options{Handler: http.HandlerFunc(hello)})
	srv.Add(ln)
	if err := gen.Run(srv, signals); err != nil {
		log.Fatal(err)
	}
}

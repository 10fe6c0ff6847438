package server_test

import (
	"log"
	"net/http"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// A program whose next version is tried on a tenth of the connections for half a minute, and then
// watched for ten seconds: should its answers fail more often, the old one goes on.
func Example_trial() {
	signals := upgrade.Signals()
	gen, err := upgrade.New(upgrade.Options{
		Trial: upgrade.Trial{Share: 0.1, Time: 30 * time.Second, Watch: 10 * time.Second},
	})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := gen.Listen("127.0.0.1:8082")
	if err != nil {
		log.Fatal(err)
	}
	srv := server.New(server.Options{Handler: http.FileServer(http.Dir("."))})
	srv.Add(ln)
	if err := gen.Run(srv, signals); err != nil {
		log.Fatal(err)
	}
}

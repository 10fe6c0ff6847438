package server_test

import (
	"crypto/tls"
	"log"
	"log/slog"
	"net/http"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// shop is a server that hands its ticket keys to its successor.
type shop struct {
	*server.Server
	tickets *server.TicketKeys
}

func (s shop) Secret() []byte { return s.tickets.Secret() }

// A TLS listener whose sessions can be resumed after upgrades, and whose
// certificate is read again when its files change.
func ExampleServer_AddTLS() {
	signals := upgrade.Signals()
	gen, err := upgrade.New(upgrade.Options{})
	if err != nil {
		log.Fatal(err)
	}
	tickets, err := server.NewTicketKeys(gen.Secret())
	if err != nil {
		log.Print(err) // these are new ones
	}
	certificates, err := server.LoadCertificates([]server.CertificateFiles{{Certificate: "cert.pem", Key: "key.pem"}}, slog.Default())
	if err != nil {
		log.Fatal(err)
	}
	ln, err := gen.Listen(":8443")
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{GetCertificate: certificates.Get}
	tickets.Use(config)
	srv := server.New(server.Options{Handler: http.FileServer(http.Dir("."))})
	srv.AddTLS(ln, config)
	go func() {
		for range time.Tick(10 * time.Second) {
			certificates.Refresh()
			tickets.Rotate()
		}
	}()
	if err := gen.Run(shop{srv, tickets}, signals); err != nil {
		log.Fatal(err)
	}
}

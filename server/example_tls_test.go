package server_test

import (
	"crypto/tls"
	"log"
	"log/slog"
	"net/http"
	"time"

	"example.com/baton/server"
	"example.com/baton/server/tlskeys"
	"example.com/baton/upgrade"
)

// A TLS listener whose sessions can be resumed after upgrades, and whose
// certificate is read again when its files change.
func ExampleServer_AddTLS() {
	signals := upgrade.Signals()
	var tickets *tlskeys.TicketKeys
	gen, err := upgrade.New(upgrade.Options{Secret: func() []byte { return tickets.Secret() }})
	if err != nil {
		log.Fatal(err)
	}
	if tickets, err = tlskeys.NewTicketKeys(gen.Secret()); err != nil {
		log.Print(err) // these are new ones
	}
	certificates, err := tlskeys.LoadCertificates([]tlskeys.CertificateFiles{{Certificate: "cert.pem", Key: "key.pem"}}, slog.Default())
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
	if err := gen.Run(srv, signals); err != nil {
		log.Fatal(err)
	}
}

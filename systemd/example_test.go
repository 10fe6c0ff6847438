package systemd_test

import (
	"log"
	"net/http"

	"example.com/baton/server"
	"example.com/baton/systemd"
	"example.com/baton/upgrade"
)

var version string // set by the linker: -ldflags "-X main.version=1.4.0"

// A service that systemd is notified of, and whose listeners survive a crash. README
// has a unit for it.
func Example() {
	manager := systemd.New()
	signals := upgrade.Signals()
	gen, err := upgrade.New(upgrade.Options{
		Version: version,
		Control: "/run/shop/control.sock",
		Store:   manager,
	})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := gen.Listen(":8080")
	if err != nil {
		log.Fatal(err)
	}
	srv := server.New(server.Options{Handler: http.FileServer(http.Dir("/srv/www"))})
	srv.Add(ln)
	notifier := manager.NewNotifier(systemd.NotifierOptions{Generation: gen, Service: srv})
	gen.Observe(notifier)
	if err := gen.Run(srv, signals); err != nil {
		log.Fatal(err)
	}
	notifier.Close() // before the exit, systemd has to know of the successor
}

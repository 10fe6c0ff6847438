package systemd_test

import (
	"context"
	"log"
	"net/http"
	"time"

	"example.com/baton/server"
	"example.com/baton/systemd"
	"example.com/baton/upgrade"
)

var version string // set by the linker: -ldflags "-X main.version=1.4.0"

// notifier notifies systemd of a generation that serves.
type notifier struct {
	upgrade.NopObserver
	manager *systemd.Manager
}

func (n notifier) StateChanged(from, to upgrade.State) {
	if to == upgrade.Serving {
		n.manager.Ready()
	}
}

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
	gen.Observe(notifier{manager: manager})
	ln, err := gen.Listen(":8080")
	if err != nil {
		log.Fatal(err)
	}
	srv := server.New(server.Options{Handler: http.FileServer(http.Dir("/srv/www"))})
	srv.Add(ln)
	if err := gen.Run(srv, signals); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	manager.Barrier(ctx) // before the exit, systemd has to know of the successor
}

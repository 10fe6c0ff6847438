package upgrade_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"example.com/baton/upgrade"
)

// Asking a service for an upgrade, as a deploy script in Go would. Package
// server shows the other side.
func ExampleAsk() {
	outcome, err := upgrade.Ask(context.Background(), "/run/no-such-service/control.sock", upgrade.Overrides{}, nil)
	switch {
	case errors.Is(err, upgrade.ErrNoServer):
		fmt.Println("nothing to upgrade")
	case err != nil:
		fmt.Println(err)
	default:
		fmt.Println(outcome)
	}
	// Output: nothing to upgrade
}

// What each generation has to flush or close at its end, and what the service does once,
// when it stops.
func ExampleGeneration_OnExit() {
	var (
		service upgrade.Service
		db      *sql.DB
	)
	signals := upgrade.Signals()
	gen, err := upgrade.New(upgrade.Options{})
	if err != nil {
		log.Fatal(err)
	}
	gen.OnExit("database", func(context.Context) error { return db.Close() })
	gen.OnStop("registry", func(ctx context.Context) error { // runs before, since it is registered after
		_, err := db.ExecContext(ctx, "DELETE FROM instances WHERE address = $1", "192.0.2.1:80")
		return err
	})
	if err := gen.Run(service, signals); err != nil {
		log.Fatal(err)
	}
}

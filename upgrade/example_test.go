package upgrade_test

import (
	"context"
	"errors"
	"fmt"

	"example.com/baton/upgrade"
)

// Asking a service for an upgrade, as a deploy script in Go would. Package
// server shows the other side.
func ExampleAsk() {
	outcome, err := upgrade.Ask(context.Background(), "/run/no-such-service/control.sock", nil)
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

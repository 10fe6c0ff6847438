// Package cli tests the commands as a person or a script uses them: flags, configuration, exit codes and
// messages, and what other users of the machine can do to the control socket.
package cli

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }

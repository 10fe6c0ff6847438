package lifecycle

import (
	"fmt"
	"time"
)

// A first generation that serves, and hands over to its successor when it gets SIGHUP.
func ExampleMachine() {
	m := New(Config{Generation: 1, UpgradeTimeout: time.Minute})
	for _, kind := range []Kind{Begun, CheckPassed, Prepared, SignalTrigger, Hello, SuccessorServes, FlipAccepted, Drained, HooksEnded} {
		actions := m.Handle(Event{Kind: kind})
		fmt.Println(m.Phase(), what(actions))
	}
	// Output:
	// checking [check]
	// preparing [prepare]
	// serving [commit serve open control announce]
	// upgrading [execute [0]]
	// upgrading []
	// upgrading []
	// draining [hand over release pipe drain to successor]
	// closing [run hooks]
	// exited [report drained succeed [0] finish exit]
}

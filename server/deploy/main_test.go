package deploy

import (
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	for i := range pauses {
		pauses[i] = time.Duration(i) * 20 * time.Millisecond
	}
	m.Run()
}

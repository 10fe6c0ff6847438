package tlskeys

import "time"

// SetClock gives the keys another time.
func (k *TicketKeys) SetClock(now func() time.Time) { k.now = now }

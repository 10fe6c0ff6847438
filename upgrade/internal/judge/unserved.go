package judge

import "fmt"

// Unserved returns a sentence if clients still connect to an address that the successor does not serve, and
// "" if they do not. Fewer than three are a straggler or a probe.
func Unserved(address string, connections uint64) string {
	const least = 3
	if connections < least {
		return ""
	}
	return fmt.Sprintf("%s clients have connected to %s, where the successor does not listen", Thousands(connections), address)
}

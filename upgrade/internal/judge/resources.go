package judge

import "fmt"

// Resources is what a generation has, or what limits that.
type Resources struct {
	Descriptors uint64 // beside those of its connections
	Memory      uint64 // bytes
}

// Exhausting returns a sentence if the successor is about to have all that there is, and "" if it
// is not: more than half of the descriptors that a process may have, or more memory than is left,
// and more than three times what the predecessor had at most. A limit of 0 is not known.
func Exhausting(successor, predecessor, limit Resources) string {
	const times = 3
	if n, most := successor.Descriptors, limit.Descriptors; most > 0 && n > most/2 && n > times*predecessor.Descriptors {
		return fmt.Sprintf("the successor has %s descriptors open beside its connections, of %s that it may have; the predecessor had %s",
			Thousands(n), Thousands(most), Thousands(predecessor.Descriptors))
	}
	if n, left := successor.Memory, limit.Memory; left > 0 && n > left && n > times*predecessor.Memory {
		return fmt.Sprintf("the successor has %s MB of memory, and %s MB are left; the predecessor had %s",
			megabytes(n), megabytes(left), megabytes(predecessor.Memory))
	}
	return ""
}

// Most returns the greater of both, each for itself.
func (r Resources) Most(other Resources) Resources {
	return Resources{max(r.Descriptors, other.Descriptors), max(r.Memory, other.Memory)}
}

func megabytes(bytes uint64) string { return Thousands((bytes + 500_000) / 1_000_000) }

package exchange

import (
	"strconv"
	"sync"
)

var FileSizes = []int{100, 4_000, 20_000, 200_000}

// pattern is the longest one so far.
var pattern struct {
	sync.Mutex
	bytes []byte
	next  int // the number that follows
}

// Pattern is n bytes in which a shift or a repetition shows. The bytes are shared, and not to be changed. Each load needs
// many, and with the race detector it takes longer to make them than to send them.
func Pattern(n int) []byte {
	pattern.Lock()
	defer pattern.Unlock()
	for ; len(pattern.bytes) < n; pattern.next++ {
		pattern.bytes = append(strconv.AppendInt(pattern.bytes, int64(pattern.next), 10), ',')
	}
	return pattern.bytes[:n:n]
}

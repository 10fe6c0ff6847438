package exchange

import (
	"fmt"
)

var FileSizes = []int{100, 4_000, 20_000, 200_000}

// Pattern is n bytes in which a shift or a repetition shows.
func Pattern(n int) []byte {
	b := make([]byte, 0, n+16)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%d,", i)
	}
	return b[:n]
}

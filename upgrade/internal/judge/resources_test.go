package judge

import "testing"

func TestExhausting(t *testing.T) {
	const mb = 1_000_000
	limit := Resources{Descriptors: 1024, Memory: 2000 * mb}
	for _, test := range []struct {
		name                   string
		successor, predecessor Resources
		limit                  Resources
		want                   string
	}{
		{"nothing known", Resources{600, 3000 * mb}, Resources{}, Resources{}, ""},
		{"as before", Resources{40, 50 * mb}, Resources{38, 45 * mb}, limit, ""},
		{"ten times as much, and enough left", Resources{400, 500 * mb}, Resources{40, 50 * mb}, limit, ""},
		{"half of the descriptors", Resources{512, 50 * mb}, Resources{40, 50 * mb}, limit, ""},
		{"more descriptors", Resources{513, 50 * mb}, Resources{40, 50 * mb}, limit,
			"the successor has 513 descriptors open beside its connections, of 1,024 that it may have; the predecessor had 40"},
		{"more than half of them, as the predecessor", Resources{700, 50 * mb}, Resources{240, 50 * mb}, limit, ""},
		{"more memory", Resources{40, 2001 * mb}, Resources{40, 50 * mb}, limit, "the successor has 2,001 MB of memory, and 2,000 MB are left; the predecessor had 50"},
		{"more memory, as the predecessor", Resources{40, 2001 * mb}, Resources{40, 700 * mb}, limit, ""},
	} {
		if got := Exhausting(test.successor, test.predecessor, test.limit); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

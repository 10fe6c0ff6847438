package tls13

import (
	"slices"
	"testing"
)

func TestCountSealed(t *testing.T) {
	for _, suite := range suiteIDs {
		state, other := newState(suite), newState(suite)
		records := func(h Half, lengths ...int) (all []byte) {
			traffic, err := newTraffic(suites[suite], h)
			if err != nil {
				t.Fatal(err)
			}
			out := outbound{traffic}
			for _, n := range lengths {
				all = out.seal(all, typeHandshake, pattern(n))
			}
			return all
		}
		plain := []byte{byte(typeHandshake), 3, 3, 0, 2, 1, 2, 20, 3, 3, 0, 1, 1}
		before, tickets := records(other.Out, 1, 1000, maxPlaintext, 36), records(state.Out, 200, maxPlaintext, 7)
		tests := map[string]struct {
			sent []byte
			want uint64
			ok   bool
		}{
			"nothing":               {nil, 0, true},
			"plaintext":             {plain, 0, true},
			"another key":           {before, 0, true},
			"tickets":               {tickets, 3, true},
			"a whole flight":        {slices.Concat(plain, before, tickets), 3, true},
			"one ticket":            {slices.Concat(plain, before, records(state.Out, 200)), 1, true},
			"something after":       {slices.Concat(tickets, before), 0, false},
			"an empty record after": {slices.Concat(tickets, []byte{20, 3, 3, 0, 0}), 3, true},
			"a part":                {tickets[:len(tickets)-1], 0, false},
			"the part of a header":  {append(tickets[:len(tickets):len(tickets)], 23, 3), 0, false},
			"not the first records": {records(Half{Secret: state.Out.Secret, Sequence: 1}, 200), 0, true},
		}
		for name, test := range tests {
			if got, err := CountSealed(suite, state.Out.Secret, test.sent); got != test.want || (err == nil) != test.ok {
				t.Errorf("%s: got %d and %v, want %d", name, got, err, test.want)
			}
		}
	}
	if _, err := CountSealed(1, nil, nil); err == nil {
		t.Error("unknown suite: got no error")
	}
}

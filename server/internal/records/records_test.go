package records

import (
	"math/rand/v2"
	"testing"
)

// split cuts p into pieces of random sizes.
func split(p []byte, seed uint64) [][]byte {
	random := rand.New(rand.NewPCG(seed, 0))
	var pieces [][]byte
	for len(p) > 0 {
		n := 1 + random.IntN(min(len(p), 1+random.IntN(40)))
		pieces = append(pieces, p[:n])
		p = p[n:]
	}
	return pieces
}

// FuzzInbound compares, for any bytes in any pieces, with a reader of records that has them
// all at once.
func FuzzInbound(f *testing.F) {
	f.Add([]byte("\x16\x03\x01\x00\x05hello\x17\x03\x03\x00\x00\x17\x03\x03\x01\x00half"), uint64(1))
	f.Add([]byte("\x17\x03\x03"), uint64(2))
	f.Add(append([]byte("\x17\x03\x03\x01\x01"), make([]byte, 257+3)...), uint64(3))
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		ends := map[int]bool{0: true}
		for at := 0; len(p)-at >= 5; {
			at += 5 + int(p[at+3])<<8 + int(p[at+4])
			ends[at] = true
		}
		var in Inbound
		at := 0
		for _, piece := range split(p, seed) {
			for len(piece) > 0 { // a record's rest at most, as in a handshake
				need := in.Need()
				n := min(need, len(piece))
				in.Came(piece[:n])
				at += n
				piece = piece[n:]
				if n == need && in.Within() != (in.Need() > 0 && !ends[at]) {
					t.Errorf("after %d bytes: within a record %t", at, in.Within())
				}
			}
			if in.Within() == ends[at] {
				t.Errorf("after %d bytes: within a record %t", at, in.Within())
			}
		}
	})
}

// What was read of what has come, as crypto/tls reads it.
func TestPending(t *testing.T) {
	record := func(kind byte, size int) []byte {
		return append([]byte{kind, 3, 3, byte(size >> 8), byte(size)}, make([]byte, size)...)
	}
	whole := record(applicationData, 100)
	tests := map[string]struct {
		do   func(in *Inbound)
		want int
	}{
		"nothing":                              {do: func(in *Inbound) {}},
		"a record":                             {do: func(in *Inbound) { in.Came(whole) }, want: maxPlaintext},
		"two":                                  {do: func(in *Inbound) { in.Came(whole); in.Came(whole) }, want: 2 * maxPlaintext},
		"one that was read":                    {do: func(in *Inbound) { in.Came(whole); in.Read(100, 4096) }},
		"one that was read twice":              {do: func(in *Inbound) { in.Came(whole); in.Read(60, 60); in.Read(40, 60) }},
		"one that filled the buffer may go on": {do: func(in *Inbound) { in.Came(whole); in.Read(60, 60) }, want: maxPlaintext},
		"a Read of nothing":                    {do: func(in *Inbound) { in.Came(whole); in.Read(0, 60) }, want: maxPlaintext},
		"the beginning of a header":            {do: func(in *Inbound) { in.Came(whole[:1]) }, want: maxPlaintext},
		"all but the end":                      {do: func(in *Inbound) { in.Came(whole[:104]) }, want: maxPlaintext},
		"one that was read, and the beginning of the next": {do: func(in *Inbound) { in.Came(whole); in.Read(100, 4096); in.Came(whole[:7]) }, want: maxPlaintext},
		"two, and more read than came":                     {do: func(in *Inbound) { in.Read(10, 20); in.Read(10, 20); in.Read(10, 10) }, want: maxPlaintext},
		"a Read of one byte":                               {do: func(in *Inbound) { in.Came(whole[:5]); in.Came(whole[5:]); in.Read(1, 60) }},
		"a handshake":                                      {do: func(in *Inbound) { in.Came(record(22, 50)) }},
		"the end of a handshake":                           {do: func(in *Inbound) { in.Came(whole); in.EndHandshake() }},
		"and a record":                                     {do: func(in *Inbound) { in.Came(whole); in.EndHandshake(); in.Came(whole) }, want: maxPlaintext},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			in := new(Inbound)
			test.do(in)
			for range 2 { // it changes nothing
				in.Pending()
			}
			if got := in.Pending(); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestNeed(t *testing.T) {
	var in Inbound
	for i, want := range []int{5, 4, 3, 2, 1, 2, 1, 5} {
		if got := in.Need(); got != want {
			t.Errorf("after %d bytes: got %d, want %d", i, got, want)
		}
		in.Came([]byte{applicationData, 3, 3, 0, 2, 0, 0, 0}[i : i+1])
	}
}

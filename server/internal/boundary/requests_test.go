package boundary

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestRequestsAreFollowed(t *testing.T) {
	for name, test := range map[string]struct {
		in, out    string // out: as net/http gets it, "": the same
		begun, bad int
		between    bool // at the end
	}{
		"one":                                {in: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", begun: 1, between: true},
		"half":                               {in: "GET / HTTP/1.1\r\nHost: x\r\n", begun: 1},
		"two, the second not whole":          {in: "GET / HTTP/1.1\r\nHost: x\r\n\r\nG", begun: 2},
		"line ends before":                   {in: "\r\n\r\nGET / HTTP/1.1\r\n\r\n", out: "GET / HTTP/1.1\r\n\r\n", begun: 1, between: true},
		"line ends between":                  {in: "GET / HTTP/1.1\r\n\r\n\r\n\nGET / HTTP/1.1\r\n\r\n\r\n", out: "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", begun: 2, between: true},
		"line ends in a body":                {in: "PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n\r\nG", out: "PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\nG", begun: 2},
		"line feeds only":                    {in: "GET / HTTP/1.1\n\nGET / HTTP/1.1\n\n", begun: 2, between: true},
		"length":                             {in: "PUT / HTTP/1.1\r\ncontent-length:\t3 \r\n\r\nabcGET / HTTP/1.1\r\n\r\n", begun: 2, between: true},
		"length twice":                       {in: "PUT / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", begun: 1, between: true},
		"chunks":                             {in: "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\nA \r\n0123456789\r\n0\r\nT: v\r\n\r\nG", begun: 2},
		"chunked and length":                 {in: "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", begun: 1, bad: 1},
		"length and chunked":                 {in: "GET / HTTP/1.1\r\n\r\nPUT / HTTP/1.1\r\nCONTENT-LENGTH: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", begun: 2, bad: 2},
		"chunked in HTTP/1.0":                {in: "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", begun: 1, bad: 1},
		"chunked in HTTP/1.0, with a length": {in: "PUT / HTTP/1.0\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", begun: 1, bad: 1},
		"folded length":                      {in: "PUT / HTTP/1.1\r\nContent-Length:\r\n 3\r\n\r\nabc", begun: 1, bad: 1},
		"folded encoding":                    {in: "PUT / HTTP/1.1\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\nabc", begun: 1, bad: 1},
		"folded otherwise":                   {in: "GET / HTTP/1.1\r\nX: a\r\n Content-Length: 3\r\n\r\nG", begun: 2},
		"another protocol":                   {in: "GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n\r\nab", begun: 2},
		"a length that is no number":         {in: "PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\nabc", begun: 1},
		"a length that is no number, twice":  {in: "PUT / HTTP/1.1\r\nContent-Length: x\r\nContent-Length: 3\r\n\r\nabc", begun: 1},
		"a length of ten and one":            {in: "PUT / HTTP/1.1\r\nContent-Length: 11\r\n\r\n0123456789aG", begun: 2},
		"a length out of range":              {in: "PUT / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\nabc\r\n", begun: 1},
		"a chunk that has no number":         {in: "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n0\r\n\r\n", begun: 1},
		"a chunk out of range":               {in: "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4000000000000000\r\n\r\n0\r\n\r\n", begun: 1},
		"a chunk of ten and seven":           {in: "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n0123456789abcdefg\r\n0\r\n\r\n", begun: 1, between: true},
		"folded, in another line":            {in: "GET / HTTP/1.1\r\nContent-Length: 1\r\nX: a\r\n b\r\n\r\naG", begun: 2},
		"empty lines after CONNECT":          {in: "CONNECT x:1 HTTP/1.1\r\n\r\n\r\n\r\nab", begun: 2},
		"an empty line after CONNECT":        {in: "CONNECT x:1 HTTP/1.1\r\n\r\n\r\n", begun: 1, between: true},
		"CONNECT":                            {in: "CONNECT x:1 HTTP/1.1\r\n\r\n\r\nab", begun: 2},
		"HTTP/2":                             {in: Preface + "\n\n\r\n", begun: 1},
	} {
		t.Run(name, func(t *testing.T) {
			want := test.out
			if want == "" {
				want = test.in
			}
			for size := 1; size <= len(test.in); size++ {
				var q requests
				var got strings.Builder
				for rest := test.in; rest != ""; {
					piece := []byte(rest[:min(size, len(rest))])
					rest = rest[len(piece):]
					got.Write(piece[:q.follow(piece)])
				}
				if got.String() != want {
					t.Fatalf("in pieces of %d: got %q, want %q", size, got.String(), want)
				}
				if test.between != (q.part == between) || q.begun != test.begun || q.bad != test.bad {
					t.Fatalf("in pieces of %d: got %d requests, bad %d, part %d, want %d, %d, between %v", size, q.begun, q.bad, q.part, test.begun, test.bad, test.between)
				}
			}
		})
	}
}

// What net/http takes for a request must be one here, too, and of the same length.
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: v\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"PUT / HTTP/1.1\nHost: x\nX: a\n b\nTransfer-Encoding: chunked\n\n3\r\nabc\r\n0\r\nT: v\n\n\r\n\r\nGET / HTTP/1.0\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
		"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n\n\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(seed), byte(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, size byte) {
		var q requests
		var passed []byte
		for rest := in; len(rest) > 0; {
			piece := append([]byte(nil), rest[:min(int(size)+1, len(rest))]...)
			rest = rest[len(piece):]
			passed = append(passed, piece[:q.follow(piece)]...)
		}
		r := bufio.NewReader(strings.NewReader(string(passed)))
		for number := 1; ; number++ {
			request, err := http.ReadRequest(r)
			if errors.Is(err, io.EOF) && q.part == between && number-1 != q.whole {
				t.Fatalf("got %d requests, net/http got %d", q.whole, number-1)
			}
			if err != nil {
				return
			}
			if request.ProtoMajor != 1 || number > q.whole {
				return // refused, or the connection's last
			}
			if number == q.bad {
				return
			}
			if len(request.TransferEncoding) > 0 && request.ProtoMinor == 0 {
				t.Fatalf("request %d is chunked in HTTP/1.0", number)
			}
			if _, err := io.Copy(io.Discard, request.Body); err != nil {
				return
			}
		}
	})
}

// Whether a request has come behind the present one is settled at the first call, but for what was pending then.
func TestAwaits(t *testing.T) {
	const get = "GET / HTTP/1.1\r\n\r\n"
	const put = "PUT / HTTP/1.1\r\nContent-Length: 30\r\n\r\n"
	for name, test := range map[string]struct {
		come    string // before the first call
		pending int64
		later   string // before the second one
		want    [2]bool
	}{
		"nothing":                   {come: get},
		"a request that is whole":   {come: get + get, want: [2]bool{true, true}},
		"the beginning of one":      {come: get + "G", want: [2]bool{true, true}},
		"bytes that are pending":    {come: get, pending: 1, want: [2]bool{true, false}},
		"which are a request":       {come: get, pending: 10, later: get, want: [2]bool{true, true}},
		"a later one":               {come: get, later: get},
		"bytes of the body":         {come: put, pending: 30},
		"of which more come":        {come: put, pending: 30, later: "0123456789"},
		"and a request behind them": {come: put, pending: 40, later: "012345678901234567890123456789" + get, want: [2]bool{false, true}},
		"and a later one":           {come: put, pending: 30, later: "012345678901234567890123456789" + get},
	} {
		var q requests
		q.follow([]byte(test.come))
		got := [2]bool{q.awaits(1, test.pending)}
		q.follow([]byte(test.later))
		got[1] = q.awaits(1, 0)
		if got != test.want || q.ahead != (test.want[0] || test.want[1]) {
			t.Errorf("%s: got %v, want %v; ahead %t", name, got, test.want, q.ahead)
		}
	}
}

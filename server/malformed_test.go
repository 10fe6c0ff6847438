package server_test

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"testing"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// No handler gets a request of HTTP/2 that is malformed (RFC 9113, section 8.1.1), nor
// the whole of a body whose length is not the one declared.
func TestHTTP2MalformedRequests(t *testing.T) {
	tier.Slow(t, "sends each malformed request by itself")
	t.Parallel()
	const ok, refused, broken = "served", "refused", "broken body" // refused: with 400 or PROTOCOL_ERROR
	get := []string{":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/"}
	post := append([]string{":method", "POST"}, get[2:]...)
	with := func(fields []string, more ...string) []string {
		return append(fields[:len(fields):len(fields)], more...)
	}
	to := func(authority string) []string {
		return []string{":method", "GET", ":scheme", "http", ":authority", authority, ":path", "/"}
	}
	at := func(method, path string) []string {
		return []string{":method", method, ":scheme", "http", ":authority", "a.example", ":path", path}
	}
	tests := map[string]struct {
		fields  []string
		data    []string // frames, the last with END_STREAM; none: END_STREAM is in the HEADERS
		trailer []string // with END_STREAM, after data
		want    string
	}{
		"GET":                               {fields: get, want: ok},
		"POST":                              {fields: post, data: []string{"hello"}, want: ok},
		"length":                            {fields: with(post, "content-length", "5"), data: []string{"he", "llo"}, want: ok},
		"length 0, none":                    {fields: with(post, "content-length", "0"), want: ok},
		"length 0, empty DATA":              {fields: with(post, "content-length", "0"), data: []string{""}, want: ok},
		"length on GET":                     {fields: with(get, "content-length", "5"), data: []string{"hello"}, want: ok},
		"length with zeros":                 {fields: with(post, "content-length", "005"), data: []string{"hello"}, want: ok},
		"length, no body":                   {fields: with(post, "content-length", "5"), want: refused},
		"length on GET, no body":            {fields: with(get, "content-length", "5"), want: refused},
		"two lengths":                       {fields: with(post, "content-length", "5", "content-length", "6"), data: []string{"hello"}, want: refused},
		"two lengths, the second right":     {fields: with(post, "content-length", "6", "content-length", "5"), data: []string{"hello"}, want: refused},
		"the same length twice":             {fields: with(post, "content-length", "5", "content-length", "5"), data: []string{"hello"}, want: refused},
		"two lengths of 0":                  {fields: with(post, "content-length", "0", "content-length", "0"), want: refused},
		"list of lengths":                   {fields: with(post, "content-length", "5, 5"), data: []string{"hello"}, want: refused},
		"length with sign":                  {fields: with(post, "content-length", "+5"), data: []string{"hello"}, want: refused},
		"length below 0":                    {fields: with(post, "content-length", "-5"), data: []string{"hello"}, want: refused},
		"length -0":                         {fields: with(post, "content-length", "-0"), want: refused},
		"length in hexadecimal":             {fields: with(post, "content-length", "0x5"), data: []string{"hello"}, want: refused},
		"length with underscore":            {fields: with(post, "content-length", "0_5"), data: []string{"hello"}, want: refused},
		"length with space":                 {fields: with(post, "content-length", " 5"), data: []string{"hello"}, want: refused},
		"length is a word":                  {fields: with(post, "content-length", "five"), data: []string{"hello"}, want: refused},
		"length of a fraction":              {fields: with(post, "content-length", "5.0"), data: []string{"hello"}, want: refused},
		"length beyond all":                 {fields: with(post, "content-length", "18446744073709551621"), data: []string{"hello"}, want: refused},
		"empty length":                      {fields: with(post, "content-length", ""), data: []string{"hello"}, want: refused},
		"empty length, no body":             {fields: with(post, "content-length", ""), want: refused},
		"length is a word, no body":         {fields: with(get, "content-length", "five"), want: refused},
		"body longer than length":           {fields: with(post, "content-length", "5"), data: []string{"hello", "x"}, want: refused},
		"one frame longer than length":      {fields: with(post, "content-length", "5"), data: []string{"hello world"}, want: refused},
		"body, length 0":                    {fields: with(post, "content-length", "0"), data: []string{"hello"}, want: refused},
		"body shorter than length":          {fields: with(post, "content-length", "5"), data: []string{"hell"}, want: broken},
		"empty body, length":                {fields: with(post, "content-length", "5"), data: []string{""}, want: broken},
		"shorter, with trailer":             {fields: with(post, "content-length", "5", "trailer", "x"), data: []string{"hell"}, trailer: []string{"x", "y"}, want: broken},
		"length in the trailer":             {fields: with(post, "trailer", "content-length"), data: []string{"hello"}, trailer: []string{"content-length", "7"}, want: ok},
		"chunked":                           {fields: with(post, "transfer-encoding", "chunked"), data: []string{"hello"}, want: refused},
		"host":                              {fields: with(get, "host", "a.example"), want: ok},
		"host in capitals":                  {fields: with(get, "host", "A.example"), want: ok},
		"host instead of authority":         {fields: with(append(get[:4:4], get[6:]...), "host", "a.example"), want: ok},
		"another host":                      {fields: with(get, "host", "b.example"), want: refused},
		"two hosts":                         {fields: with(get, "host", "a.example", "host", "a.example"), want: refused},
		"two hosts instead of authority":    {fields: with(append(get[:4:4], get[6:]...), "host", "a.example", "host", "b.example"), want: refused},
		"neither":                           {fields: append(get[:4:4], get[6:]...), want: refused},
		"authority with port":               {fields: to("a.example:8080"), want: ok},
		"authority in IPv6":                 {fields: to("[::1]:8080"), want: ok},
		"authority with slash":              {fields: to("a.example/b"), want: refused},
		"authority with query":              {fields: to("a.example?b"), want: refused},
		"authority with fragment":           {fields: to("a.example#b"), want: refused},
		"authority with space":              {fields: to("a.example b"), want: refused},
		"authority with backslash":          {fields: to(`a.example\b`), want: refused},
		"authority with user":               {fields: to("b@a.example"), want: refused},
		"path with query":                   {fields: at("GET", "/a?b=c"), want: ok},
		"path with space":                   {fields: at("GET", "/a b"), want: refused},
		"query with space":                  {fields: at("GET", "/a?b HTTP/1.1"), want: refused},
		"path with fragment":                {fields: at("GET", "/a#b"), want: refused},
		"path that is a URL":                {fields: at("GET", "http://b.example/"), want: refused},
		"path *":                            {fields: at("GET", "*"), want: refused},
		"path that does not begin with a /": {fields: at("GET", "a"), want: refused},
		"empty path":                        {fields: at("GET", ""), want: refused},
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Handled", "yes")
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.Header().Set("Broken", "yes")
		}
		fmt.Fprint(w, "hello")
	})
	bothOverTCP(t, server.Options{Handler: handler}, func(t *testing.T, s *served, dial func() *http2Client) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				c := dial()
				c.t = t
				defer c.Close()
				got := c.outcome(test.fields, test.data, test.trailer)
				if got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		}
		<-s.drain(patience, all)
	})
}

// outcome sends one request and returns what becomes of it.
func (c *http2Client) outcome(fields, data, trailer []string) string {
	c.t.Helper()
	headers := func(fields []string, end bool) {
		c.fields.Reset()
		for i := 0; i < len(fields); i += 2 {
			c.pack.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields.Bytes(), EndStream: end, EndHeaders: true}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.mu.Lock()
	c.AllowIllegalWrites = true
	headers(fields, data == nil)
	for i, part := range data {
		if err := c.WriteData(1, i == len(data)-1 && trailer == nil, []byte(part)); err != nil {
			c.t.Fatal(err)
		}
	}
	if trailer != nil {
		headers(trailer, true)
	}
	c.mu.Unlock()
	var handled, broken string
	for {
		f, err := c.ReadFrame()
		if err != nil {
			c.t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range f.RegularFields() {
				switch field.Name {
				case "handled":
					handled = "served"
				case "broken":
					broken = "broken body"
				}
			}
			if status := f.PseudoValue("status"); status == "400" {
				return "refused"
			}
			return cmp.Or(broken, handled)
		case *http2.RSTStreamFrame:
			if f.ErrCode != http2.ErrCodeProtocol {
				c.t.Errorf("reset: got %v, want PROTOCOL_ERROR", f.ErrCode)
			}
			return "refused"
		}
	}
}

package files

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"example.com/baton/e2e/tier"
	"example.com/baton/handlers/internal/testserver"
)

// A directory of any size is listed in bounded memory, whole.
func TestFilesListsManyEntries(t *testing.T) {
	tier.Slow(t, "makes a directory of many entries")
	dir := t.TempDir()
	const n = 2*sortedEntries + 1
	for i := range n {
		if err := os.WriteFile(fmt.Sprintf("%s/file-%06d-%s", dir, i, strings.Repeat("x", 100)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir+"/.hidden", "", 0o644)
	put(t, dir+"/a<b>\"&'#?.txt", "", 0o644)
	if err := syscall.Mkfifo(dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	h, err := New(Options{Root: dir, Listing: true})
	if err != nil {
		t.Fatal(err)
	}
	body := get(h, "/").Body.String()
	testserver.Equal(t, "entries", strings.Count(body, "<a href="), n+1)
	for i := range n {
		if !strings.Contains(body, fmt.Sprintf("file-%06d-", i)) {
			t.Fatalf("file %d is missing", i)
		}
	}
	if !strings.Contains(body, `<a href="a%3Cb%3E%22&amp;%27%23%3F.txt">a&lt;b&gt;&#34;&amp;&#39;#?.txt</a>`) {
		t.Errorf("a name with special characters is not escaped:\n%s", body[strings.Index(body, "a%3C"):][:80])
	}
	testserver.Equal(t, "whole", strings.HasSuffix(body, "</pre>\n"), true)

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	h.ServeHTTP(sink(func() {
		runtime.ReadMemStats(&after)
		peak = max(peak, after.HeapAlloc)
	}), httptest.NewRequest("GET", "/", nil))
	if grown := int64(peak) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("a listing holds %d bytes, want no more than a batch of entries", grown)
	}
}

// sink is a ResponseWriter that keeps nothing and calls itself at each Write.
type sink func()

func (s sink) Header() http.Header { return make(http.Header) }

func (s sink) WriteHeader(int) {}

func (s sink) Write(p []byte) (int, error) { s(); return len(p), nil }

func TestFilesListsNothingHidden(t *testing.T) {
	_, body := testserver.Do(t, testserver.Serve(t, newFiles(t)), "GET", "/list/")
	testserver.Equal(t, "lists .git or .hidden", strings.Contains(body, ".git") || strings.Contains(body, ".hidden"), false)
	testserver.Equal(t, "lists .well-known", strings.Contains(body, ".well-known/"), true)
}

package files

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"golang.org/x/sys/unix"
)

// unprivileged calls f as a user whom permissions stop, where the test runs as root.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread() // the user for files is one of the thread
	defer runtime.UnlockOSThread()
	unix.Setfsuid(65534)
	defer unix.Setfsuid(0)
	f()
}

// put writes a file with a mode.
func put(t *testing.T, name, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, name string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(name, 0o755) }) // so that it can be removed
}

// get answers a request without a connection in between.
func get(h http.Handler, path string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestFilesPermissions(t *testing.T) {
	base := t.TempDir()
	for dir := base; dir != os.TempDir(); dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	dir := filepath.Join(base, "root")
	put(t, dir+"/a.txt", "a", 0o644)
	put(t, dir+"/unreadable.txt", "a", 0)
	put(t, dir+"/unreadable-index/index.html", "a", 0)
	put(t, dir+"/searchable/a.txt", "deep", 0o644)
	put(t, dir+"/searchable/index.html", "index", 0o644)
	put(t, dir+"/searchable/sub/b.txt", "b", 0o644)
	put(t, dir+"/searchable-only/b.txt", "b", 0o644)
	put(t, dir+"/closed/index.html", "a", 0o644)
	put(t, dir+"/listed/b.txt", "b", 0o644)
	put(t, dir+"/link-index/b.txt", "b", 0o644)
	for link, target := range map[string]string{dir + "/link-index/index.html": "/etc/passwd", dir + "/to-searchable": "searchable"} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	chmod(t, dir+"/searchable", 0o711)
	chmod(t, dir+"/searchable-only", 0o711)
	chmod(t, dir+"/closed", 0o600)
	chmod(t, dir, 0o711)

	for _, test := range []struct {
		name, path   string
		listing      bool
		status       int
		body, absent string
	}{
		{"file in a root of mode 0711", "/a.txt", true, 200, "a", ""},
		{"root of mode 0711", "/", true, 403, "forbidden", "a.txt"},
		{"unreadable file", "/unreadable.txt", true, 403, "forbidden", ""},
		{"unreadable index", "/unreadable-index/", true, 403, "forbidden", "<pre>"},
		{"file in a directory of mode 0711", "/searchable/a.txt", true, 200, "deep", ""},
		{"index in a directory of mode 0711", "/searchable/", true, 200, "index", ""},
		{"directory of mode 0711 without its slash", "/searchable", true, 301, "", ""},
		{"below a directory of mode 0711", "/searchable/sub/b.txt", true, 200, "b", ""},
		{"missing in a directory of mode 0711", "/searchable/missing", true, 404, "not found", ""},
		{"through a link to a directory of mode 0711", "/to-searchable/a.txt", true, 200, "deep", ""},
		{"directory of mode 0711 without an index", "/searchable-only/", true, 403, "forbidden", "b.txt"},
		{"directory that cannot be searched", "/closed/", true, 403, "forbidden", ""},
		{"file in a directory that cannot be searched", "/closed/index.html", true, 403, "forbidden", ""},
		{"missing directory", "/missing/", true, 404, "not found", ""},
		{"index that leads out of the root", "/link-index/", true, 404, "not found", "b.txt"},
		{"listing", "/listed/", true, 200, "b.txt", ""},
		{"listing, not switched on", "/listed/", false, 403, "forbidden", "b.txt"},
		{"index, listing not switched on", "/searchable/", false, 200, "index", ""},
		{"missing directory, listing not switched on", "/missing/", false, 404, "not found", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var response *httptest.ResponseRecorder
			unprivileged(t, func() {
				h, err := New(Options{Root: dir, Listing: test.listing})
				if err != nil {
					t.Fatal(err)
				}
				response = get(h, test.path)
			})
			testserver.Equal(t, "status", response.Code, test.status)
			body := response.Body.String()
			if !strings.Contains(body, test.body) {
				t.Errorf("body: got %q, want it to contain %q", body, test.body)
			}
			if test.absent != "" && strings.Contains(body, test.absent) {
				t.Errorf("body: got %q, want it not to contain %q", body, test.absent)
			}
		})
	}
}

func TestFilesRootThatCannotBeSearched(t *testing.T) {
	dir := t.TempDir()
	chmod(t, dir, 0o600)
	unprivileged(t, func() {
		if _, err := New(Options{Root: dir}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("got %v, want an error that permission is denied", err)
		}
	})
}

// With no descriptor free, nothing is said about what there is.
func TestFilesWithoutDescriptors(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/index.html", "index", 0o644)
	put(t, dir+"/sub/b.txt", "b", 0o644)
	h, err := New(Options{Root: dir, Listing: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for free := range 4 {
		for _, path := range []string{"/", "/index.html", "/sub/", "/sub", "/sub/b.txt", "/missing", "/missing/"} {
			want := get(h, path)
			var limit, low syscall.Rlimit
			if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			low = limit
			low.Cur = uint64(nextDescriptor(t) + free)
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
				t.Fatal(err)
			}
			got := get(h, path)
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			if got.Code != 503 && (got.Code != want.Code || got.Body.String() != want.Body.String()) {
				t.Errorf("%s with %d descriptors free: got %d %q, want 503 or the answer of always", path, free, got.Code, got.Body)
			}
			if free == 0 {
				testserver.Equal(t, path+" without descriptors", got.Code, 503)
				testserver.Equal(t, "Retry-After", got.Header().Get("Retry-After"), "1")
			}
		}
	}
}

// nextDescriptor returns the number that the next file gets.
func nextDescriptor(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return fd
}

func TestFilesStatusOfErrors(t *testing.T) {
	for want, numbers := range map[int][]syscall.Errno{
		404: {unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EINVAL, unix.ENXIO, unix.ENODEV},
		403: {unix.EACCES, unix.EPERM},
		503: {unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN},
		500: {unix.EIO, unix.ESTALE, unix.ENOTCONN, unix.EUCLEAN, unix.EROFS},
	} {
		for _, number := range numbers {
			testserver.Equal(t, number.Error(), statusOf(fmt.Errorf("in a test: %w", &fs.PathError{Op: "open", Path: "x", Err: number})), want)
		}
	}
}

// A file that shrinks while it is sent must not look whole.
func TestFilesTruncated(t *testing.T) {
	const size = 4 << 20 // more than the buffers on the way take
	noise := make([]byte, size/2)
	rand.Read(noise)
	content := hex.EncodeToString(noise)
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, encoding := range []string{"gzip", "identity"} {
			t.Run(protocol+" "+encoding, func(t *testing.T) {
				dir := t.TempDir()
				put(t, dir+"/a.txt", content, 0o644)
				h, err := New(Options{Root: dir})
				if err != nil {
					t.Fatal(err)
				}
				server := httptest.NewUnstartedServer(h)
				server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
				server.EnableHTTP2 = protocol == "HTTP/2.0"
				server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
					c.(*tls.Conn).NetConn().(*net.TCPConn).SetWriteBuffer(64 << 10)
					return ctx
				}
				server.StartTLS()
				defer server.Close()
				transport := server.Client().Transport.(*http.Transport)
				transport.DisableCompression = true
				transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 64 << 10}
				transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err == nil {
						c.(*net.TCPConn).SetReadBuffer(64 << 10)
					}
					return c, err
				}
				r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/a.txt", nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Accept-Encoding", encoding)
				response, err := server.Client().Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				testserver.Equal(t, "protocol", response.Proto, protocol)
				// The rest is in no buffer yet: the client has not read.
				if err := os.Truncate(dir+"/a.txt", size/2); err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				if err == nil {
					t.Errorf("got a response that ends in order after %d bytes of a file that was truncated", len(body))
				}
				if encoding == "gzip" {
					unpacked, err := gzip.NewReader(bytes.NewReader(body))
					if err == nil {
						_, err = io.Copy(io.Discard, unpacked)
					}
					if err == nil {
						t.Error("got a gzip stream that is whole")
					}
				}
			})
		}
	}
}

func TestFilesLinks(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := base + "/releases/3"
	put(t, base+"/secret", "secret", 0o644)
	put(t, base+"/releases/33/secret", "secret", 0o644)
	put(t, dir+"/a.txt", "hello", 0o644)
	put(t, dir+"/sub/index.html", "index", 0o644)
	put(t, dir+"/sub/deep/b.txt", "deep", 0o644)
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	link("releases/3", base+"/current")
	link(base, base+"/alias")
	for name, target := range map[string]string{
		"real":         dir + "/a.txt",
		"given":        base + "/current/a.txt",
		"aliased":      base + "/alias/current/a.txt",
		"sloppy":       base + "//current/./sub/../a.txt",
		"real-dir":     dir + "/sub",
		"real-slash":   dir + "/sub/",
		"itself":       dir,
		"out-and-back": "../3/a.txt",
		"sub-up":       "sub/deep/../../a.txt",
		"chain":        "real",
		"through":      "real-dir/deep/b.txt",
		"up-through":   "real-dir/deep/../../a.txt",
		"outside":      base + "/secret",
		"prefix":       base + "/releases/33/secret",
		"dots":         dir + "/../../secret",
		"relative-out": "../../secret",
		"dangling":     dir + "/missing",
		"loop":         dir + "/loop",
		"loop-out":     "../3/loop-out",
		"pair-1":       dir + "/pair-2",
		"pair-2":       "pair-1",
		"slash":        "/",
		"proc":         "/proc/self/root/etc/passwd",
	} {
		link(target, filepath.Join(dir, name))
	}
	for _, given := range []string{dir, base + "/current", base + "/current/"} {
		h, err := New(Options{Root: given})
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			path   string
			status int
			body   string
		}{
			{"/real", 200, "hello"},
			{"/given", 200, "hello"},
			{"/aliased", 200, "hello"},
			{"/sloppy", 200, "hello"},
			{"/real-dir/", 200, "index"},
			{"/real-dir", 301, ""},
			{"/real-slash/", 200, "index"},
			{"/real-dir/deep/b.txt", 200, "deep"},
			{"/itself/a.txt", 200, "hello"},
			{"/out-and-back", 200, "hello"},
			{"/sub-up", 200, "hello"},
			{"/chain", 200, "hello"},
			{"/through", 200, "deep"},
			{"/up-through", 200, "hello"},
			{"/outside", 404, ""},
			{"/prefix", 404, ""},
			{"/dots", 404, ""},
			{"/relative-out", 404, ""},
			{"/dangling", 404, ""},
			{"/loop", 404, ""},
			{"/loop-out", 404, ""},
			{"/pair-1", 404, ""},
			{"/slash", 404, ""},
			{"/slash/etc/passwd", 404, ""},
			{"/proc", 404, ""},
		} {
			got := get(h, test.path)
			if got.Code != test.status || !strings.Contains(got.Body.String(), test.body) || strings.Contains(got.Body.String(), "secret") {
				t.Errorf("root %s, %s: got %d %q, want %d %q", given, test.path, got.Code, got.Body, test.status, test.body)
			}
		}
	}
}

func TestFilesRedirectsToTheSlash(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"sub", "a:b", "a b", "a?b", "evil.com"} {
		put(t, filepath.Join(dir, name, "index.html"), "index", 0o644)
	}
	h, err := New(Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/sub": "sub/", "/sub?x=1": "sub/?x=1", "/a:b": "./a:b/", "/a%20b": "a%20b/", "/a%3Fb": "a%3Fb/", "//evil.com": "evil.com/",
	} {
		got := get(h, path)
		testserver.Equal(t, path+" status", got.Code, 301)
		testserver.Equal(t, path+" Location", got.Header().Get("Location"), want)
	}
}

func TestFilesTimesThatMeanNothing(t *testing.T) {
	dir := t.TempDir()
	large := strings.Repeat("x", maxHashed+1)
	for name, modified := range map[string]time.Time{
		"0":      time.Unix(0, 0),
		"1":      time.Unix(1, 0),
		"before": time.Unix(-1, 0),
		"1980":   time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC),
		"zip":    time.Date(1980, 1, 1, 0, 0, 1, 0, time.UTC),
		"gradle": time.Date(1980, 2, 1, 0, 0, 0, 0, time.UTC),
		"npm":    time.Date(1985, 10, 26, 8, 15, 0, 0, time.UTC),
		"bazel":  time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC),
		"future": time.Now().Add(time.Hour),
		"epoch":  time.Unix(1700000000, 0), // of a SOURCE_DATE_EPOCH
	} {
		for _, size := range []string{"small", "large"} {
			t.Run(name+" "+size, func(t *testing.T) {
				meaningful := name == "epoch"
				if size == "large" && meaningful {
					t.Skip("nothing but the time tells")
				}
				path := filepath.Join(dir, "a.txt")
				content := "one"
				if size == "large" {
					content = large
				}
				write := func(content string) {
					put(t, path, content, 0o644)
					if err := os.Chtimes(path, modified, modified); err != nil {
						t.Fatal(err)
					}
				}
				write(content)
				h, err := New(Options{Root: dir})
				if err != nil {
					t.Fatal(err)
				}
				first := get(h, "/a.txt").Header()
				testserver.Equal(t, "has Last-Modified", first.Get("Last-Modified") != "", meaningful)
				testserver.Equal(t, "has an ETag", first.Get("Etag") != "", size == "small")
				date := modified.UTC().Format(http.TimeFormat)
				if !meaningful {
					testserver.Equal(t, "If-Modified-Since", get(h, "/a.txt", "If-Modified-Since", date).Code, 200)
					testserver.Equal(t, "If-Range", get(h, "/a.txt", "If-Range", date, "Range", "bytes=0-0").Code, 200)
				}
				if size == "large" {
					return
				}
				testserver.Equal(t, "same content", get(h, "/a.txt", "If-None-Match", first.Get("Etag")).Code, 304)
				write("two") // in the same tick, perhaps
				testserver.Equal(t, "other content", get(h, "/a.txt", "If-None-Match", first.Get("Etag")).Code, 200)
			})
		}
	}
}

// What is remembered of a file is that of no other content.
func TestFilesRemembersETags(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.txt")
	put(t, path, "one", 0o644)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	v := validators{known: make(map[version]string)}
	etag, _, err := v.of(file, info)
	if err != nil {
		t.Fatal(err)
	}
	testserver.Equal(t, "remembered of a file that has just changed", len(v.known), 0)
	stat := info.Sys().(*syscall.Stat_t)
	stat.Ctim.Sec -= 3
	again, _, err := v.of(file, info)
	if err != nil {
		t.Fatal(err)
	}
	testserver.Equal(t, "ETag", again, etag)
	testserver.Equal(t, "remembered", len(v.known), 1)
	for range maxKnown {
		stat.Ino++
		v.of(file, info)
	}
	if len(v.known) > maxKnown {
		t.Errorf("got %d ETags remembered, want %d at most", len(v.known), maxKnown)
	}
}

func TestFilesRangesThatAreIgnored(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/a.bin", strings.Repeat("0123456789", 10000), 0o644)
	h, err := New(Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	many := func(n int, r string) string { return "bytes=" + strings.TrimSuffix(strings.Repeat(r+",", n), ",") }
	for value, want := range map[string]int{
		"bytes=0-1": 206, "Bytes=0-1": 206, "BYTES=-5": 206, "bytes=0-1,5-6": 206, many(maxRanges, "0-1"): 206,
		"lines=0-1": 200, "items=0-1,3-4": 200, "bytes": 200, "bytes 0-1": 200, "0-1": 200, "": 200, "=0-1": 200, "x": 200, "byte=0-1": 200,
		many(maxRanges+1, "0-1"): 200, many(16000, "0-0"): 200, many(3, "0-"): 200,
		"bytes=": 200, "bytes=abc": 416, "bytes=5-1": 416, "bytes=-": 416, "bytes=200000-": 416, "bytes=0-1;2-3": 416,
		"bytes=99999999999999999999-": 416,
	} {
		got := get(h, "/a.bin", "Range", value)
		if got.Code != want {
			t.Errorf("Range: %.40s: got %d, want %d", value, got.Code, want)
		}
	}
	r := httptest.NewRequest("HEAD", "/a.bin", nil)
	r.Header.Set("Range", "bytes=0-1")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	testserver.Equal(t, "HEAD with a range", w.Code, 200)
}

// A directory of any size is listed in bounded memory, whole.
func TestFilesListsManyEntries(t *testing.T) {
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

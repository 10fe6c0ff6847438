package files

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
	"example.com/baton/handlers/middleware"
)

var modified = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)

var text = strings.Repeat("a line that compresses\n", 1000)

// directory lays out a root with everything that must and must not be served.
func directory(t *testing.T) string {
	t.Helper()
	outside := t.TempDir()
	root := filepath.Join(outside, "root")
	for name, content := range map[string]string{
		"../secret": "secret", "a.txt": "hello", "big.txt": text, "big.jpg": text, "noext": text,
		"sub/index.html": "index", "list/b.txt": "b", "list/.hidden": "h", "list/.git/config": "g", "list/.well-known/x": "w",
		".env": "e", ".well-known/acme": "acme", "odd/index.html/x": "x",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, modified, modified); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"inside": "a.txt", "up": "../secret", "absolute": filepath.Join(outside, "secret"), "directory": "..", "loop": "loop", "device": "/dev/zero",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(root, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return root
}

func newFiles(t *testing.T) http.Handler {
	t.Helper()
	files, err := New(Options{Root: directory(t), Listing: true})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFiles(t *testing.T) {
	server := testserver.Serve(t, newFiles(t))
	long := "/" + strings.Repeat("x", 300)
	for _, test := range []struct {
		name, method, path string
		status             int
		body               string // a part of it
	}{
		{"file", "GET", "/a.txt", 200, "hello"},
		{"head", "HEAD", "/a.txt", 200, ""},
		{"double slash", "GET", "//a.txt", 200, "hello"},
		{"index", "GET", "/sub/", 200, "index"},
		{"index by name", "GET", "/sub/index.html", 200, "index"},
		{"directory without slash", "GET", "/sub", 301, ""},
		{"listing", "GET", "/list/", 200, "b.txt"},
		{"directory called index.html", "GET", "/odd/", 200, `<a href="index.html/">`},
		{"symlink inside", "GET", "/inside", 200, "hello"},
		{"missing", "GET", "/missing", 404, "not found"},
		{"file with slash", "GET", "/a.txt/", 404, "not found"},
		{"below a file", "GET", "/a.txt/b", 404, "not found"},
		{"dot file", "GET", "/.env", 404, "not found"},
		{"below a dot directory", "GET", "/list/.git/config", 404, "not found"},
		{"well-known", "GET", "/.well-known/acme", 200, "acme"},
		{"dot dot", "GET", "/../secret", 404, "not found"},
		{"escaped dot dot", "GET", "/%2e%2e/secret", 404, "not found"},
		{"escaped slash", "GET", "/..%2fsecret", 404, "not found"},
		{"symlink up", "GET", "/up", 404, "not found"},
		{"absolute symlink", "GET", "/absolute", 404, "not found"},
		{"through a directory symlink", "GET", "/directory/secret", 404, "not found"},
		{"symlink loop", "GET", "/loop", 404, "not found"},
		{"NUL", "GET", "/a.txt%00", 404, "not found"},
		{"name too long", "GET", long, 404, "not found"},
		{"fifo", "GET", "/fifo", 404, "not found"},
		{"socket", "GET", "/socket", 404, "not found"},
		{"device", "GET", "/device", 404, "not found"},
		{"post", "POST", "/a.txt", 405, "only GET and HEAD"},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := testserver.Do(t, server, test.method, test.path)
			testserver.Equal(t, "status", response.StatusCode, test.status)
			if !strings.Contains(body, test.body) {
				t.Errorf("body: got %q, want it to contain %q", body, test.body)
			}
			if strings.Contains(body, "secret") {
				t.Errorf("body: got %q from outside of the root", body)
			}
			if test.status == 405 {
				testserver.Equal(t, "Allow", response.Header.Get("Allow"), "GET, HEAD")
			}
		})
	}
}

func TestFilesWithoutRoot(t *testing.T) {
	if _, err := New(Options{Root: filepath.Join(t.TempDir(), "missing")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want an error that the directory does not exist", err)
	}
}

func TestFilesGzip(t *testing.T) {
	server := testserver.Serve(t, newFiles(t))
	for _, test := range []struct{ name, path, accept, encoding, vary string }{
		{"text", "/big.txt", "br, zstd, gzip", "gzip", "Accept-Encoding"},
		{"text, refused", "/big.txt", "gzip;q=0", "", "Accept-Encoding"},
		{"text, not asked for", "/big.txt", "br", "", "Accept-Encoding"},
		{"image", "/big.jpg", "gzip", "", ""},
		{"no extension", "/noext", "gzip", "", ""},
		{"small", "/a.txt", "gzip", "", ""},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			t.Run(test.name+" "+method, func(t *testing.T) {
				response, body := testserver.Do(t, server, method, test.path, "Accept-Encoding", test.accept)
				testserver.Equal(t, "Content-Encoding", response.Header.Get("Content-Encoding"), test.encoding)
				testserver.Equal(t, "Vary", strings.Join(response.Header["Vary"], "; "), test.vary)
				if method == "HEAD" {
					// The length of the gzipped file is not known without gzipping it.
					testserver.Equal(t, "has a length", response.ContentLength >= 0, test.encoding == "")
					return
				}
				if test.encoding == "" {
					return
				}
				unpacked, err := gzip.NewReader(strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(unpacked)
				if err != nil {
					t.Fatal(err)
				}
				testserver.Equal(t, "unpacked body", string(got), text)
			})
		}
	}
}

// readFromSpy tells whether ReadFrom was reached with a file descriptor behind src.
type readFromSpy struct {
	http.ResponseWriter
	sendfile *bool
}

func (s readFromSpy) ReadFrom(src io.Reader) (int64, error) {
	if limited, ok := src.(*io.LimitedReader); ok {
		_, *s.sendfile = limited.R.(syscall.Conn)
	}
	return s.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
}

func (s readFromSpy) Flush() {}

func (s readFromSpy) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

func TestFilesKeepSendfile(t *testing.T) {
	logged, logger := testserver.Capture()
	handler := middleware.Log(metrics.New(metrics.Options{}).Count(newFiles(t)), logger)
	for _, test := range []struct {
		name, path, encoding string
		want                 bool
	}{
		{"image", "/big.jpg", "gzip", true},
		{"text, gzip not accepted", "/big.txt", "", true},
		{"small file, read at once", "/sub/", "gzip", false},
		{"text, gzip accepted", "/big.txt", "gzip", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			sendfile := false
			server := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handler.ServeHTTP(readFromSpy{w, &sendfile}, r)
			}))
			testserver.Do(t, server, "GET", test.path, "Accept-Encoding", test.encoding)
			server.Close() // waits for the handler
			testserver.Equal(t, "ReadFrom reached with a file", sendfile, test.want)
		})
	}
	testserver.Equal(t, "bytes logged", logged.With("request")[0]["bytes"], any(float64(len(text))))
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

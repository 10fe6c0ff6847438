package files

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"syscall"
	"testing"

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

package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/baton/handlers/internal/recorder"
	"example.com/baton/handlers/internal/reply"
	"example.com/baton/handlers/internal/request"
	"github.com/klauspost/compress/gzhttp"
	"golang.org/x/sys/unix"
)

// compressors is how many responses are compressed at a time. A compressor takes some
// 800 KB, and a client that does not read holds one; beyond that files are sent as they are.
const compressors = 64

// Below this size a gzipped file saves no packet.
const gzipMinSize = 1024

// Options configure [New].
type Options struct {
	// Root is the directory whose files are served.
	Root string
	// Listing lists directories without an index; otherwise they are answered 403.
	Listing bool
	// Logger gets a line for each file that the server fails to read. Nil means
	// slog.Default().
	Logger *slog.Logger
}

// New serves a directory: its index.html for a directory, ranges, conditional
// requests by time and by ETag, and gzip for text and the like.
//
// A file of up to 16 KiB that has not changed for a minute is remembered, within bounds, until
// it changes; but not if it is on a file system that may not tell: on one of a network, say.
//
// Nothing leads out of the root, neither `..` nor a symbolic link, and files and
// directories whose name begins with a dot are neither listed nor served, except
// .well-known (RFC 8615). Whatever is not a regular file or directory is not there.
//
// The root is opened once, by this call. If it is replaced by another of the
// same name, as a deploy by symlink swap does, the old one is served on until
// the next generation opens its own.
//
// The ETag is made of the content for files of up to 1 MiB, and of size and
// modification time above. Times that are the same for all files of a reproducible
// build make neither an ETag nor Last-Modified. Of a large file, two versions of the
// same length and time are not told apart.
func New(o Options) (http.Handler, error) {
	root, err := openRoot(o.Root)
	if err != nil {
		return nil, fmt.Errorf("open root directory: %w", err)
	}
	compress, err := gzhttp.NewWrapper(gzhttp.EnableZstd(false), gzhttp.MinSize(gzipMinSize))
	if err != nil {
		return nil, fmt.Errorf("set up gzip: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &files{root: root, listing: o.Listing, log: o.Logger, compress: compress,
		memory: memory{written: written, known: make(map[version]knowledge)}, slots: make(chan struct{}, compressors)}, nil
}

type files struct {
	root     *root
	listing  bool
	log      *slog.Logger
	compress func(http.Handler) http.HandlerFunc
	memory   memory
	slots    chan struct{} // one for each response that is compressed
}

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !reply.ReadOnly(w, r) {
		return
	}
	if err := f.answer(w, r); err != nil {
		f.fail(w, r, err)
	}
}

// answer answers a request. An error means that nothing was written.
func (f *files) answer(w http.ResponseWriter, r *http.Request) error {
	name := r.URL.Path
	if hidden(name) {
		return fs.ErrNotExist
	}
	if strings.HasSuffix(name, "/") {
		return f.answerDirectory(w, r, name)
	}
	file, err := f.open(name)
	if errors.Is(err, errIsDirectory) {
		to := url.URL{Path: path.Base(name) + "/", RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", to.String())
		w.WriteHeader(http.StatusMovedPermanently)
		return nil
	} else if err != nil {
		return err
	}
	defer file.close()
	return f.serve(w, r, file)
}

// answerDirectory answers with the index of a directory, or what there is without one.
func (f *files) answerDirectory(w http.ResponseWriter, r *http.Request, name string) error {
	const index = "index.html"
	file, failure := f.open(name + index)
	if failure == nil {
		defer file.close()
		return f.serve(w, r, file)
	}
	isDirectory := errors.Is(failure, errIsDirectory)
	if !isDirectory && statusOf(failure) != http.StatusNotFound {
		return failure
	}
	dir, err := f.root.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	// An index that is there and cannot be served, a link out of the root say, is not
	// to be replaced by a list.
	var there unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), index, &there, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil && !isDirectory:
		return failure
	case err != nil && !errors.Is(err, unix.ENOENT):
		return &fs.PathError{Op: "stat", Path: name + index, Err: err}
	case !f.listing:
		return fs.ErrPermission
	}
	readable, err := f.root.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer readable.Close()
	return list(w, r, readable)
}

// fail answers a request whose file cannot be served.
func (f *files) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status >= 500 {
		f.log.Error("file cannot be read", "path", request.Shorten(r.URL.Path), "error", err)
	}
	switch status {
	case http.StatusNotFound:
		reply.Error(w, r, status, "not found")
	case http.StatusForbidden:
		reply.Error(w, r, status, "forbidden")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
		reply.Error(w, r, status, "the server is short of resources; try again")
	default:
		reply.Error(w, r, status, "file cannot be read")
	}
}

// statusOf returns the status code for an error: only one that says that there can be no
// such file means 404.
func statusOf(err error) int {
	var number syscall.Errno
	errors.As(err, &number)
	switch number {
	case unix.EINVAL, unix.ELOOP, unix.ENAMETOOLONG, unix.ENOTDIR, unix.ENXIO, unix.ENODEV:
		return http.StatusNotFound
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, fs.ErrPermission):
		return http.StatusForbidden
	case isShortage(err):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// serve answers with a file. An error means that nothing was written.
func (f *files) serve(w http.ResponseWriter, r *http.Request, file *file) error {
	etag, modified, err := f.memory.validators(file)
	if err != nil {
		return err
	}
	ignoreRange(r)
	h := w.Header()
	if file.size() < gzipMinSize || !compressible(file.name) {
		setETag(h, etag)
		servePlain(w, r, file, modified)
		return nil
	}
	if r.Header.Get("Range") != "" || !reply.AcceptsGzip(r.Header["Accept-Encoding"]) || r.Method != http.MethodHead && !f.mayCompress() {
		h.Add("Vary", "Accept-Encoding")
		setETag(h, etag)
		servePlain(w, r, file, modified)
		return nil
	}
	// The same content in other bytes: a weak ETag still confirms a copy
	// (If-None-Match), but never lets a range be glued to it (If-Range).
	if etag != "" {
		setETag(h, "W/"+etag)
	}
	if r.Method == http.MethodHead {
		// What GET would say. ServeContent then leaves out the length.
		h.Add("Vary", "Accept-Encoding")
		h.Set("Content-Encoding", "gzip")
		http.ServeContent(w, r, file.name, modified, file.reader())
		return nil
	}
	defer func() { <-f.slots }()
	out := &breakable{ResponseWriter: w}
	f.compress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := &watched{ReadSeeker: file.reader()}
		http.ServeContent(w, r, file.name, modified, in)
		out.broken = in.failed
	})).ServeHTTP(out, r) // adds Vary itself
	if out.broken {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// servePlain serves a file as it is, and aborts a response that is shorter than it says:
// HTTP/2 would end it in order.
func servePlain(w http.ResponseWriter, r *http.Request, file *file, modified time.Time) {
	rec := recorder.New(w)
	before := rec.Bytes
	content := file.reader() // which the kernel may send
	if r.TLS != nil {        // it cannot, and the length need not be asked for
		content = file.section()
	}
	http.ServeContent(rec, r, file.name, modified, content)
	length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	if r.Method == http.MethodGet && err == nil && rec.Bytes-before < length {
		panic(http.ErrAbortHandler)
	}
}

func setETag(h http.Header, etag string) {
	if etag != "" {
		h.Set("Etag", etag)
	}
}

// maxRanges bounds the ranges of a request: RFC 9110, 17.15.
const maxRanges = 100

// ignoreRange removes a Range field that is to be ignored (RFC 9110, 14.2): one of a
// unit other than bytes, or of a method other than GET, or with more ranges than a
// reader asks for.
func ignoreRange(r *http.Request) {
	fields := r.Header["Range"]
	if len(fields) == 0 {
		return
	}
	unit, ranges, found := strings.Cut(fields[0], "=")
	if r.Method != http.MethodGet || len(fields) > 1 || !found || !strings.EqualFold(unit, "bytes") || strings.Count(ranges, ",") >= maxRanges {
		r.Header.Del("Range")
		return
	}
	r.Header.Set("Range", "bytes="+ranges) // net/http knows this spelling alone
}

// watched is a file that notes when it ends before it should: ServeContent reads no
// more than the length that the file had.
type watched struct {
	io.ReadSeeker
	failed bool
}

func (f *watched) Read(p []byte) (int, error) {
	n, err := f.ReadSeeker.Read(p)
	f.failed = f.failed || err != nil
	return n, err
}

// breakable takes nothing more once broken is set, so that a gzip stream that is not
// whole does not get the end of one.
type breakable struct {
	http.ResponseWriter
	broken bool
}

func (w *breakable) Write(p []byte) (int, error) {
	if w.broken {
		return 0, io.ErrUnexpectedEOF
	}
	return w.ResponseWriter.Write(p)
}

func (w *breakable) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// mayCompress takes one of the slots, if there is one.
func (f *files) mayCompress() bool {
	select {
	case f.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// compressible decides by the name alone, so that a file that does not
// compress never meets a wrapped ResponseWriter.
func compressible(name string) bool {
	// What package mime knows is well-formed, so that cutting off parameters is enough.
	media, _, _ := strings.Cut(mime.TypeByExtension(path.Ext(name)), ";")
	return strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "+xml") || strings.HasSuffix(media, "+json") ||
		slices.Contains([]string{"application/javascript", "application/json", "application/xml", "application/wasm",
			"application/x-javascript", "application/vnd.ms-fontobject", "font/ttf", "font/otf", "image/bmp", "image/x-icon",
			"image/vnd.microsoft.icon"}, media)
}

// hidden reports whether an element of name begins with a dot, `.` and `..` included.
func hidden(name string) bool {
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(element, ".") && element != ".well-known" {
			return true
		}
	}
	return false
}

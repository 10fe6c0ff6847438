// Static files from one folder that no path leads out of.

package handlers

import (
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzhttp"
)

// compressors is how many responses are compressed at a time. A compressor takes some
// 800 KB, and a client that does not read holds one; beyond that files are sent as they are.
const compressors = 64

// Below this size a gzipped file saves no packet.
const gzipMinSize = 1024

// Files serves the folder dir: index.html or a listing for a folder, ranges,
// conditional requests by time and by ETag, and gzip for text and the like.
//
// Nothing leads out of the folder, neither `..` nor a symlink, and files and
// folders whose name begins with a dot are neither listed nor served, except
// .well-known (RFC 8615). Whatever is no regular file or folder is not there.
//
// The folder is opened once, by this call. If it is replaced by another of the
// same name, as a deploy by symlink swap does, the old one is served on until
// the next generation calls Files anew.
//
// The ETag is made of size and modification time, as in nginx: two files of
// the same length written in the same tick of the clock are not told apart.
func Files(dir string) (http.Handler, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open root folder: %w", err)
	}
	compress, err := gzhttp.NewWrapper(gzhttp.EnableZstd(false), gzhttp.MinSize(gzipMinSize))
	if err != nil {
		return nil, fmt.Errorf("set up gzip: %w", err)
	}
	folder := rootFS{root}
	return &files{folder, http.FileServer(folder), compress, make(chan struct{}, compressors)}, nil
}

type files struct {
	folder   rootFS
	folders  http.Handler // redirects a folder to its slash, and lists it
	compress func(http.Handler) http.HandlerFunc
	slots    chan struct{} // one for each response that is compressed
}

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !readOnly(w, r) {
		return
	}
	file, info, err := f.find(r.URL.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		WriteError(w, r, http.StatusNotFound, "not found")
		return
	case errors.Is(err, fs.ErrPermission):
		WriteError(w, r, http.StatusForbidden, "forbidden")
		return
	case err != nil:
		WriteError(w, r, http.StatusInternalServerError, "file cannot be read")
		return
	}
	defer file.Close()
	if info.IsDir() {
		f.folders.ServeHTTP(w, r)
		return
	}
	f.serve(w, r, file, info)
}

// find opens what urlPath names: a file, or a folder without an index.
func (f *files) find(urlPath string) (http.File, fs.FileInfo, error) {
	file, info, err := f.folder.open(urlPath)
	if err != nil || !strings.HasSuffix(urlPath, "/") {
		return file, info, err
	}
	if !info.IsDir() {
		file.Close()
		return nil, nil, fs.ErrNotExist
	}
	index, indexInfo, err := f.folder.open(urlPath + "index.html")
	if err != nil {
		return file, info, nil
	}
	file.Close()
	return index, indexInfo, nil
}

func (f *files) serve(w http.ResponseWriter, r *http.Request, file http.File, info fs.FileInfo) {
	h := w.Header()
	etag := fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size())
	content := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, info.Name(), info.ModTime(), file)
	}
	if info.Size() < gzipMinSize || !compressible(info.Name()) {
		h.Set("Etag", etag)
		content(w, r)
		return
	}
	if r.Header.Get("Range") != "" || !acceptsGzip(r.Header["Accept-Encoding"]) || r.Method != http.MethodHead && !f.mayCompress() {
		h.Add("Vary", "Accept-Encoding")
		h.Set("Etag", etag)
		content(w, r)
		return
	}
	// The same content in other bytes: a weak ETag still confirms a copy
	// (If-None-Match), but never lets a range be glued to it (If-Range).
	h.Set("Etag", "W/"+etag)
	if r.Method == http.MethodHead {
		// What GET would say. ServeContent then leaves out the length.
		h.Add("Vary", "Accept-Encoding")
		h.Set("Content-Encoding", "gzip")
		content(w, r)
		return
	}
	defer func() { <-f.slots }()
	f.compress(http.HandlerFunc(content)).ServeHTTP(w, r) // adds Vary itself
}

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
	media, _, err := mime.ParseMediaType(mime.TypeByExtension(path.Ext(name)))
	if err != nil {
		return false
	}
	return strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "+xml") || strings.HasSuffix(media, "+json") ||
		slices.Contains([]string{"application/javascript", "application/json", "application/xml", "application/wasm",
			"application/x-javascript", "application/vnd.ms-fontobject", "font/ttf", "font/otf", "image/bmp", "image/x-icon",
			"image/vnd.microsoft.icon"}, media)
}

// rootFS is an http.FileSystem that hands out the *os.File itself. What
// http.FS returns hides its file descriptor, and with it sendfile(2).
type rootFS struct{ root *os.Root }

func (r rootFS) Open(name string) (http.File, error) {
	file, _, err := r.open(name)
	return file, err
}

func (r rootFS) open(name string) (http.File, fs.FileInfo, error) {
	if hidden(name) {
		return nil, nil, fs.ErrNotExist
	}
	relative := strings.Trim(path.Clean("/"+name), "/")
	if relative == "" {
		relative = "."
	}
	// Without O_NONBLOCK, opening a FIFO waits for its writer.
	file, err := r.root.OpenFile(relative, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, absent(err)
	}
	info, err := file.Stat()
	switch {
	case err != nil:
		file.Close()
		return nil, nil, fmt.Errorf("stat opened file: %w", err)
	case info.IsDir():
		return listing{file}, info, nil
	case !info.Mode().IsRegular():
		file.Close()
		return nil, nil, fs.ErrNotExist
	}
	return file, info, nil
}

// absent turns errors that say that the name can be no file of this folder
// into fs.ErrNotExist. What is left is trouble of the server's own.
func absent(err error) error {
	var number syscall.Errno
	if !errors.As(err, &number) {
		return fs.ErrNotExist // os.Root's own verdict: the path escapes
	}
	switch number {
	case syscall.EINVAL, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ENOTDIR, syscall.ENXIO, syscall.ENODEV:
		return fs.ErrNotExist
	}
	return err
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

// listing is a folder that does not list what is hidden.
type listing struct{ *os.File }

// ReadDir is what http.FileServer lists a folder with.
func (l listing) ReadDir(n int) ([]fs.DirEntry, error) {
	entries, err := l.File.ReadDir(n)
	return slices.DeleteFunc(entries, func(entry fs.DirEntry) bool { return hidden(entry.Name()) }), err
}

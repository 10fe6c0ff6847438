package files

import (
	"bufio"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
)

// sortedEntries is how many entries of a directory are held at a time: one with more
// of them is listed in the order in which it has them.
const sortedEntries = 1000

// list answers with what is in a directory. An error means that nothing was written.
func list(w http.ResponseWriter, r *http.Request, dir *os.File) error {
	entries, err := dir.ReadDir(sortedEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("list directory: %w", err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodHead {
		return nil
	}
	if len(entries) < sortedEntries {
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	}
	page := bufio.NewWriter(w)
	page.WriteString("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n")
	for len(entries) > 0 {
		for _, entry := range entries {
			if hidden(entry.Name()) || !isServed(entry.Type()) {
				continue
			}
			name := entry.Name()
			if entry.IsDir() {
				name += "/"
			}
			link := url.URL{Path: name}
			fmt.Fprintf(page, "<a href=\"%s\">%s</a>\n", html.EscapeString(link.String()), html.EscapeString(name))
		}
		if page.Flush() != nil {
			return nil // the client went away
		}
		entries, err = dir.ReadDir(sortedEntries)
		if err != nil && !errors.Is(err, io.EOF) {
			panic(http.ErrAbortHandler) // or half a listing would look like all of it
		}
	}
	page.WriteString("</pre>\n")
	page.Flush()
	return nil
}

// isServed reports whether a file of this type can be: what a link leads to is seen later.
func isServed(mode fs.FileMode) bool {
	return mode.IsRegular() || mode.IsDir() || mode&fs.ModeSymlink != 0
}

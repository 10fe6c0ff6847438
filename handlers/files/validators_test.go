package files

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

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
			meaningful := name == "epoch"
			if size == "large" && meaningful { // nothing but the time distinguishes these
				continue
			}
			t.Run(name+" "+size, func(t *testing.T) {
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

func TestFilesConditional(t *testing.T) {
	server := testserver.Serve(t, newFiles(t))
	plain, _ := testserver.Do(t, server, "GET", "/big.txt")
	packed, _ := testserver.Do(t, server, "GET", "/big.txt", "Accept-Encoding", "gzip")
	strong, weak := plain.Header.Get("Etag"), packed.Header.Get("Etag")
	testserver.Equal(t, "ETag of the gzipped file", weak, "W/"+strong)
	date := modified.Format(http.TimeFormat)

	for _, test := range []struct {
		name   string
		fields []string
		status int
		body   string
	}{
		{"range", []string{"Range", "bytes=2-5"}, 206, text[2:6]},
		{"range, gzip accepted", []string{"Range", "bytes=2-5", "Accept-Encoding", "gzip"}, 206, text[2:6]},
		{"range from the end", []string{"Range", "bytes=-3"}, 206, text[len(text)-3:]},
		{"range beyond the end", []string{"Range", "bytes=99999-"}, 416, "invalid range: failed to overlap\n"},
		{"if-range, same ETag", []string{"Range", "bytes=0-1", "If-Range", strong}, 206, text[:2]},
		{"if-range, other ETag", []string{"Range", "bytes=0-1", "If-Range", `"other"`}, 200, text},
		{"if-range, ETag of the gzipped file", []string{"Range", "bytes=0-1", "If-Range", weak}, 200, text},
		{"if-range, same date", []string{"Range", "bytes=0-1", "If-Range", date}, 206, text[:2]},
		{"if-none-match", []string{"If-None-Match", strong}, 304, ""},
		{"if-none-match, ETag of the gzipped file", []string{"If-None-Match", weak}, 304, ""},
		{"if-none-match, gzip accepted", []string{"If-None-Match", weak, "Accept-Encoding", "gzip"}, 304, ""},
		{"if-none-match, other", []string{"If-None-Match", `"other"`}, 200, text},
		{"if-modified-since, same", []string{"If-Modified-Since", date}, 304, ""},
		{"if-modified-since, older", []string{"If-Modified-Since", modified.Add(-time.Hour).Format(http.TimeFormat)}, 200, text},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := testserver.Do(t, server, "GET", "/big.txt", test.fields...)
			testserver.Equal(t, "status", response.StatusCode, test.status)
			testserver.Equal(t, "body", body, test.body)
			testserver.Equal(t, "Vary", strings.Join(response.Header["Vary"], "; "), "Accept-Encoding")
			if test.status == 206 {
				testserver.Equal(t, "ETag", response.Header.Get("Etag"), strong)
			}
		})
	}
}

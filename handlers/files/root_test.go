package files

import (
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

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

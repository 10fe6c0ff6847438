package files_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"

	"example.com/baton/handlers/files"
)

// A directory, of which nothing hidden is served.
func Example() {
	dir, err := os.MkdirTemp("", "site")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for name, content := range map[string]string{"index.html": "<h1>hello</h1>", ".env": "PASSWORD=secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			fmt.Println(err)
			return
		}
	}
	site, err := files.New(files.Options{Root: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, path := range []string{"/", "/.env"} {
		w := httptest.NewRecorder()
		site.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Printf("%s %d %.20s\n", path, w.Code, w.Body)
	}
	// Output:
	// / 200 <h1>hello</h1>
	// /.env 404 {"error":"not found"
}

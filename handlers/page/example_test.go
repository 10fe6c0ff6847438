package page_test

import (
	"fmt"
	"net/http/httptest"
	"regexp"

	"example.com/baton/handlers/page"
)

// The page of one generation.
func Example() {
	handler := page.New(page.Options{Identity: page.Identity{Generation: 3, PID: 4242, Version: "1.4.0"}})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(regexp.MustCompile("<title>.*</title>").FindString(w.Body.String()))
	// Output: <title>Generation 3 · Baton</title>
}

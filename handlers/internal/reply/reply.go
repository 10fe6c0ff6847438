package reply

import (
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"strconv"
	"strings"

	"example.com/baton/handlers/internal/document"
	"example.com/baton/handlers/internal/request"
)

//go:embed error.html
var errorHTML string

var (
	errorPage   = template.Must(template.New("error").Parse(errorHTML))
	errorPolicy = document.Policy(errorHTML)
)

// Error answers r with the status code and a message, which is for
// anyone's eyes: it must not name backends, files or other internals. Clients
// that name text/html in Accept get a page, all others JSON with the members
// error, status and, where Log gave the request one, request_id.
func Error(w http.ResponseWriter, r *http.Request, code int, message string) {
	// The header may already describe the body that is now not sent.
	h := w.Header()
	for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Range", "Accept-Ranges", "Etag", "Last-Modified", "Cache-Control"} {
		h.Del(name)
	}
	problem := struct {
		Error  string `json:"error"`
		Status int    `json:"status"`
		ID     string `json:"request_id,omitempty"`
		Text   string `json:"-"`
	}{message, code, "", http.StatusText(code)}
	if id := r.Header.Get(request.IDHeader); request.ValidID(id) {
		problem.ID = id
		h.Set(request.IDHeader, id)
	}

	var body strings.Builder
	if PrefersHTML(r.Header["Accept"]) {
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", errorPolicy)
		_ = errorPage.Execute(&body, problem) // fails only where a test would have
	} else {
		h.Set("Content-Type", "application/json")
		_ = json.NewEncoder(&body).Encode(problem) // strings and a number always marshal
	}
	h.Add("Vary", "Accept")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Server", "baton")
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(code)
	_, _ = w.Write([]byte(body.String())) // a client that went away is not an error
}

// ReadOnly answers anything but GET and HEAD with 405 and reports whether it did not.
func ReadOnly(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	Error(w, r, http.StatusMethodNotAllowed, "only GET and HEAD are answered here")
	return false
}

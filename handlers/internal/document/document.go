package document

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
)

// Policy returns a Content-Security-Policy under which exactly the <script>
// and <style> elements of html run, and nothing is fetched but from its own origin.
func Policy(html string) string {
	return "default-src 'none'; script-src " + hash(html, "script") + "; style-src " + hash(html, "style") +
		"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// hash returns the CSP source of the first element of that name without attributes.
func hash(html, element string) string {
	_, rest, _ := strings.Cut(html, "<"+element+">")
	text, _, found := strings.Cut(rest, "</"+element+">")
	if !found {
		return "'none'"
	}
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Handler serves html, which is the same for every request.
func Handler(html string) http.HandlerFunc {
	policy := Policy(html)
	return func(w http.ResponseWriter, _ *http.Request) { write(w, html, policy) }
}

// Write answers with html.
func Write(w http.ResponseWriter, html string) { write(w, html, Policy(html)) }

// write answers with html, which is not to be stored: a successor may have a newer one.
func write(w http.ResponseWriter, html, policy string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(html)) // a client that went away is not an error
}

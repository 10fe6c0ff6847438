// Package admin serves the admin listener: metrics, health, readiness, status, and a page
// that shows what happens as it happens.
package admin

// Package page serves the built-in page, which shows which generation answers.
package page

// Package page is the built-in page, which a service shows until it has something else to
// serve: the generation, process and version that answer, and how the trial of a successor stands.
// The HTML has them as served. Its script then follows server-sent events, and shows who takes over
// at an upgrade.
package page

// Package recorder has the ResponseWriter that the wrappers share. It keeps sendfile, flushing
// and hijacking.
package recorder

// Package files serves a directory: no file outside of it, whatever its links say, no dot
// files except .well-known, with ranges, validators that hold across generations, and gzip
// for a bounded number of clients at a time.
package files

// Package document serves HTML that is self-contained, under a policy that allows only that.
package document

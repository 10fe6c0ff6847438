// Package figure writes numbers and times as people read them. The script of the status page has
// functions of the same names as most, with the same results.
package figure

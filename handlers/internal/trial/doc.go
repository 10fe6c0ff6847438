// Package trial shows the trial of a successor on pages: both generations side by side.
package trial

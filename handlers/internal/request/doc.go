// Package request has what several handlers know of a request: its id, and what of it is logged.
package request

// Package live streams server-sent events that follow a service from generation to generation.
package live

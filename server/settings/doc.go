// Package settings reads what a generation is configured with: flags, BATON_*
// variables of the environment, and lines of a configuration file. What is set by one
// of these is left alone by the next.
//
// One table, in table.go, has a row for each setting: its name, default, help text and
// parser. From it follow the flags, the output of -h, and [Settings], which only hold
// values that are valid: [Read] reports all problems at once. Read binds nothing and
// changes nothing. It takes arguments and environment as an [Input], not from the
// process, so that it can be tested without one.
//
// [ReadClient] reads the fewer settings of commands that ask a running server, from
// the same sources.
package settings

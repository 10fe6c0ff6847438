// Package deploy answers the questions of systemd/deploy.sh: which file a service runs and
// what serves, whether a new binary is good for it, whether what was put in its place came
// to serve, and whether that is healthy.
//
// The script has the files: it copies, renames and goes back. Everything here reads, asks
// and judges, and changes no file; only a step has systemd reload or start a service. So the
// binary that answers may be any release that knows the questions, and stays the same one
// from the beginning of a deploy to its end, whichever is in place.
//
// What runs is the truth: the target of a deploy, its arguments, its environment, its
// directories and its user are those of the main process. A binary that is new,
// or that the service could have changed, is run as that process would, and never as root.
// A program that only embeds Baton's packages is not run at all.
package deploy

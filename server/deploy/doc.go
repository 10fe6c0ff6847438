// Package deploy answers the questions of systemd/deploy.sh: which file a service runs and
// what serves, whether a new binary is good for it, whether what was put in its place came
// to serve, and whether that is healthy.
//
// The script has the files: it copies, renames and goes back. What answers it reads, asks
// and judges, and changes no file; only a step has systemd reload or start a service. So the
// binary that answers may be any release that knows the questions, and stays the same one
// from the beginning of a deploy to its end, whichever is in place.
//
// What runs is the truth: the target of a deploy, its arguments, its environment, its
// directories and its user are those of the main process. A binary that is new,
// or that the service could have changed, is run as that process would, and never as root. While
// nothing runs, what another than root may change is run as that one.
// A program that only embeds Baton's packages is not run at all.
//
// Between two deploys the unit's ExecStopPost= asks, as root, what to do about a main process
// that has died. Then this package writes the crash down beside the binary and, if a new
// release has crashed three times within a minute, puts the previous binary back in its place.
// The previous binary itself does that, since the new one may die at once. It is moved and not
// copied, and what crashed is kept under a third name, so that there is nothing left to go
// back to: no two binaries replace each other in turn. A release is new until it has served
// for a minute. Exit code 2 before the service was ready is bad configuration, and no crash.
package deploy

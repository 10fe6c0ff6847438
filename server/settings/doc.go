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
//
// # Containers and supervisors
//
// Where a new version comes as a new image, no upgrade takes place in the container. What counts
// there are /readyz, which fails from the first moment of a stop, -shutdown-delay, during which
// the service goes on until the load balancer has noticed, and SIGTERM:
//
//	FROM debian:bookworm-slim
//	COPY baton /usr/local/bin/baton
//	ENTRYPOINT ["baton", "-admin", ":9180", "-shutdown-delay", "10s", "-root", "/srv"]
//
// and in Kubernetes, with a terminationGracePeriodSeconds above -shutdown-delay and
// -drain-timeout together (60):
//
//	readinessProbe: {httpGet: {path: /readyz, port: 9180}, periodSeconds: 2}
//	livenessProbe: {httpGet: {path: /healthz, port: 9180}}
//
// As process 1, Baton stays until the last generation is gone. Below anything that takes the end
// of its child for that of the service, as tini, docker run --init, a shell script or supervisord
// do, it has to be started with -foreground, and logs a warning otherwise:
//
//	[program:baton]
//	command=/usr/local/bin/baton -foreground -config /etc/baton.conf
//	autorestart=true
//	stopwaitsecs=60     ; above -shutdown-delay and -drain-timeout together
package settings

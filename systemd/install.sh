#!/bin/sh
# Installs Baton as a service of systemd, or removes it again.
#
#	install.sh [--prefix DIR] [BINARY]
#	install.sh [--prefix DIR] --uninstall
#
# Puts in place, as often as it is called:
#
#	PREFIX/bin/baton             BINARY, or built from the sources around this script
#	PREFIX/bin/baton-deploy      the deploy script, and baton-deploy-hosts, which runs it over ssh
#	/etc/systemd/system          baton.service, baton.socket
#	/etc/baton/baton.conf        an example, if there is none yet
#	/srv/baton                   files to serve, with a first page if it is empty
#
# and the system user baton. PREFIX is /usr/local unless given, and for --uninstall the one
# that is installed. Nothing is started, and a service that runs goes on with what it has
# until it is reloaded.
#
# The files to serve are in /srv, the place for what a system serves (FHS 3.17), and not
# below /var/lib: that would be the service's own, and it has no business writing them.
#
# With DESTDIR in the environment everything goes below that directory, for packagers:
# without root, without the user, and without notifying systemd.
#
# Exit codes: 0 done, 1 failed, 2 bad usage.
set -eu
umask 022

prefix=
uninstall=
binary=
destdir=${DESTDIR:-}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
user=baton
comment='Baton HTTP server' # by which our user is known

say() { printf '%s\n' "$*"; }
fail() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}
misused() {
	printf 'install.sh: %s\n' "$*" >&2
	printf 'usage: install.sh [--prefix DIR] [--uninstall] [BINARY]\n' >&2
	exit 2
}

while [ $# -gt 0 ]; do
	case $1 in
	--prefix)
		[ $# -ge 2 ] || misused '--prefix: want a directory'
		prefix=$2
		shift
		;;
	--prefix=*) prefix=${1#--prefix=} ;;
	--uninstall) uninstall=yes ;;
	-h | --help)
		sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	-*) misused "unknown option $1" ;;
	*)
		[ -z "$binary" ] || misused "one BINARY, not $binary and $1"
		binary=$1
		;;
	esac
	shift
done
units=${DESTDIR:-}/etc/systemd/system
installed=$(sed -n 's|^ExecStart=\(/.*\)/bin/baton .*|\1|p; s|^ExecStart=/bin/baton .*|/|p' "$units/baton.service" 2>/dev/null) || :
if [ -z "$prefix" ]; then
	prefix=/usr/local
	[ -z "$uninstall" ] || [ -z "$installed" ] || prefix=$installed
fi
[ "$prefix" = / ] || prefix=${prefix%/}
case $prefix in
/*) ;;
*) misused "--prefix $prefix: want an absolute path" ;;
esac
case $prefix in
*[!A-Za-z0-9/._-]*) misused "--prefix $prefix: want letters, digits and / . _ - only, as it goes into unit files" ;;
/home | /home/* | /root | /root/* | /tmp | /tmp/* | /var/tmp | /var/tmp/* | /run/user/*)
	misused "--prefix $prefix: the service cannot see that directory (ProtectHome=, PrivateTmp=); want another, such as /opt/baton"
	;;
esac
[ -z "$uninstall" ] || [ -z "$binary" ] || misused '--uninstall takes no BINARY'
[ "$prefix" != / ] || prefix=
if [ -z "$destdir" ] && [ "$(id -u)" != 0 ]; then
	fail 'this takes root; run it with sudo, or set DESTDIR to a directory to install below'
fi

if [ -n "$uninstall" ] && [ -n "$installed" ] && [ "${installed%/}" != "$prefix" ]; then
	fail "baton.service runs $installed/bin/baton: want --prefix $installed, or none"
fi
bin=$destdir$prefix/bin
settings=$destdir/etc/baton
content=$destdir/srv/baton

# Whether there is a systemd to talk to: not in the making of an image, say.
booted() { [ -z "$destdir" ] && [ -d /run/systemd/system ]; }

# What is gone at the end, whichever that is.
temporary=
rendered=
built=
trap 'rm -f -- ${temporary:+"$temporary"} ${rendered:+"$rendered"} ${built:+"$built"}' EXIT
trap 'exit 1' HUP INT TERM

# place FROM TO MODE puts a file in place by rename, so that nobody ever sees half of
# it, and one that is being executed stays whole. It changes nothing if nothing changed.
place() {
	if cmp -s -- "$1" "$2" && [ -n "$(find "$2" -prune -type f -perm "$3")" ]; then
		return
	fi
	mkdir -p -- "$(dirname -- "$2")"
	temporary=$(dirname -- "$2")/.$(basename -- "$2").$$
	cp -- "$1" "$temporary"
	chmod "$3" "$temporary"
	mv -f -- "$temporary" "$2"
	temporary=
	say "installed $2"
}

# unit NAME puts a unit in place, with the paths of this prefix.
unit() {
	rendered=$(mktemp)
	sed "s|/usr/local/bin/|$prefix/bin/|" "$here/$1" >"$rendered"
	place "$rendered" "$units/$1" 0644
	rm -f -- "$rendered"
}

remove() {
	for path; do
		if [ -e "$path" ] || [ -h "$path" ]; then
			rm -f -- "$path"
			say "removed $path"
		fi
	done
}

# known FILE says whether FILE is baton, without running it: another program may take
# "version" for nothing, and start to serve.
known() {
	case $(head -c 2 "$1" | tr -d '\000') in
	'#!') mark='baton .*(commit ' ;;
	*) mark='path	example\.com\/baton$' ;;
	esac
	[ -n "$(LC_ALL=C sed -n "/$mark/{s/.*/x/p;q;}" "$1")" ]
}

ours() { getent passwd "$user" | cut -d: -f5 | grep -qx "$comment"; }

if [ -n "$uninstall" ]; then
	if booted; then
		for name in baton.socket baton.service; do
			if [ -e "$units/$name" ]; then
				systemctl disable --quiet --now "$name" || fail "$name does not stop; systemctl status $name shows why"
			fi
		done
	fi
	remove "$units/baton.service" "$units/baton.socket" "$bin/baton" "$bin/baton.previous" "$bin/baton.crashed" "$bin/baton.crashes" "$bin/baton-deploy" "$bin/baton-deploy-hosts"
	if [ -e "$settings/baton.conf" ]; then
		if cmp -s "$here/baton.conf" "$settings/baton.conf"; then
			remove "$settings/baton.conf"
		else
			say "kept $settings/baton.conf, which was changed"
		fi
	fi
	if cmp -s "$here/index.html" "$content/index.html"; then
		remove "$content/index.html"
	fi
	for directory in "$settings" "$content"; do
		if [ -d "$directory" ] && ! rmdir -- "$directory" 2>/dev/null; then
			say "kept $directory, which is not empty"
		fi
	done
	if booted; then
		systemctl daemon-reload
		systemctl reset-failed baton.service baton.socket 2>/dev/null || :
	fi
	if [ -z "$destdir" ] && ours; then
		userdel "$user" || fail "user $user cannot be removed"
		say "removed user $user"
	fi
	exit 0
fi

if [ -z "$binary" ]; then
	source=$(dirname -- "$here")
	[ -f "$source/go.mod" ] || fail "no sources in $source; give the path of a binary"
	command -v go >/dev/null || fail 'go is not on the PATH; build baton first (go build), and give the path of the binary'
	version=$(git -C "$source" describe --tags --always --dirty 2>/dev/null) || version=devel
	built=$(mktemp)
	say "building version $version from $source"
	(cd "$source" && go build -o "$built" -ldflags "-X main.version=$version" .) || fail 'go build failed'
	binary=$built
fi
[ -f "$binary" ] || fail "$binary: no such file"
if [ -z "$destdir" ]; then # a package may be for another architecture
	# From a copy where it will be run: it may lie where nothing can be executed.
	mkdir -p -- "$bin"
	temporary=$bin/.baton.$$
	cp -- "$binary" "$temporary"
	chmod 0755 "$temporary"
	# A shell that is given what the kernel does not execute takes it for a script.
	case $(head -c 4 "$temporary" | tr -d '\000') in
	"$(printf '\177ELF')" | '#!'*) ;;
	*) fail "$binary is not a program" ;;
	esac
	known "$temporary" || fail "$binary is not baton"
	said=$("$temporary" version 2>&1) || fail "$binary does not run: $said"
	case $said in
	'baton '*) ;;
	*) fail "$binary is not baton: \"$binary version\" says $said" ;;
	esac
	rm -f -- "$temporary"
	temporary=
fi

if [ -z "$destdir" ] && ! getent passwd "$user" >/dev/null; then
	nologin=$(command -v nologin) || nologin=/bin/false
	useradd --system --user-group --no-create-home --home-dir /nonexistent --shell "$nologin" --comment "$comment" "$user" ||
		fail "user $user cannot be created"
	say "created user $user"
fi
if [ -n "$installed" ] && [ "${installed%/}" != "$prefix" ] && [ -e "$destdir${installed%/}/bin/baton" ]; then
	say "left $installed/bin/baton, which an earlier installation has put there"
fi
place "$binary" "$bin/baton" 0755
if [ -f "$here/deploy.sh" ]; then
	place "$here/deploy.sh" "$bin/baton-deploy" 0755
	place "$here/deploy-hosts.sh" "$bin/baton-deploy-hosts" 0755
fi
unit baton.service
unit baton.socket
if [ ! -e "$settings/baton.conf" ]; then
	place "$here/baton.conf" "$settings/baton.conf" 0644
fi
if [ ! -d "$content" ]; then
	mkdir -p -- "$content"
	chmod 0755 "$content"
fi
if [ -z "$(ls -A "$content")" ]; then
	place "$here/index.html" "$content/index.html" 0644
fi
if booted; then
	systemctl daemon-reload
	if systemctl is-active --quiet baton.service; then
		say 'baton runs; to have it serve with the binary and configuration that are installed now: systemctl reload baton'
		say 'if baton.service has changed, that takes effect with: systemctl restart baton'
	else
		say 'to start it now and at every boot: systemctl enable --now baton'
	fi
fi

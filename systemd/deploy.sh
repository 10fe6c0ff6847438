#!/bin/sh
# usage: deploy.sh [flags] NEW_BINARY   deploys it
#        deploy.sh [flags] --rollback   goes back to the binary before; a second time, forth again
#        deploy.sh [flags] --status     tells what serves, and changes nothing
#
#   --unit UNIT     the service (default: baton)
#   --force         deploys the version that runs already, too
#   --start         starts the service if it is stopped
#   --health WHAT   a path, asked for at every public address (default: /), or a whole URL,
#                   asked for instead of them. The answer must be below 500. An address for TLS
#                   is asked in TLS, and its certificate verified only if it is that of a URL
#   --host HOST     deploys there, over ssh; repeatable: one host after the other, stopping at
#                   the first that fails, with a summary of what runs where. A host that runs
#                   the new version already is passed over
#   --ssh COMMAND   how to reach a host, as words (default: ssh)
#   --sudo          becomes root on the hosts through sudo, which must not ask for a password
#   --help          this
#
# What is replaced is the binary that the running service was started as. If that is a symlink,
# what it points to in the end is replaced, and the link stays. The new binary gets its owner,
# mode and attributes; it is checked with the arguments, the environment and the user of the
# running service before anything is replaced. The binary before is kept as BINARY.previous.
#
# If the new version does not come to serve, or its health check fails, the binary before is
# put back, and serves. A service that is stopped is refused unless --start is given. One that
# failed, or is in a loop of restarts, is started with the new binary: that may be the cure.
# Its arguments are not known then, so its configuration is not checked before.
#
# A service of another program that embeds Baton's packages is deployed too, and its binaries are
# never run here: they have no commands for that. Its version is what it reports on its control
# socket, which a baton beside this script or on the PATH asks.
#
# Exit codes: 0 the new version serves; 1 it does not: stderr says why, and what serves instead;
# 2 bad usage; 128 + N interrupted by signal N.

# The script moves files, and a baton at hand answers what takes more than that: what runs, whether a
# binary is good, whether it serves (go doc example.com/baton/server/deploy). Every change of a file is
# a rename, so that the target and the target.previous are whole at any instant; and who is killed
# between two of them leaves a state in which the next run can tell, by which of the files runs, what
# was under way (see settle).
set -u
LC_ALL=C
export LC_ALL
newline='
'
now() { sed 's/\.\(..\).*/\1/' /proc/uptime; } # in hundredths of a second

# did STEP TEXT [BEGIN] tells, on stdout, a step that was made since the one before.
did() {
	took=$(now) && took=$((took - ${3:-$began}))
	printf '%-10s %4d.%02d s   %s\n' "$1" $((took / 100)) $((took % 100)) "$2" 2>/dev/null
	began=$(now)
}
# wrong TEXT tells, on stderr, what is wrong.
wrong() {
	while IFS= read -r line; do
		printf 'deploy: %s%s\n' "${called:+$called: }" "$line" >&2 2>/dev/null
	done <<END
$1
END
	return 0
}
misused() { wrong "$1; deploy.sh --help tells the usage" && exit 2; }
die() { tidy && wrong "$1" && exit 1; } # before anything was replaced

# find_answers opens, as file 8, a baton that knows the questions; it stays the same one whatever is
# put in place. The running one may be too old for them. Root runs no file of anybody else's, except
# for the new one, which it was given; nobody runs what is not known to be baton, for it might start to serve.
find_answers() {
	shown=$(systemctl show -p MainPID -p ExecStart "$unit" 2>&1) || die "ask systemd for $unit: ${shown:-systemctl failed}"
	start=$(printf '%s\n' "$shown" | sed -n 's/^ExecStart=.*path=\(.*\) ; argv\[\]=.*/\1/p')
	for baton in "/proc/$(printf '%s\n' "$shown" | sed -n 's/^MainPID=//p')/exe" "$start" "$start.previous" \
		"$(readlink -f "${0%/*}")/baton" "$(command -v baton)" "$binary"; do
		if [ ! -f "$baton" ] || [ ! -x "$baton" ] || ! known "$baton"; then continue; fi
		[ "$me" != 0 ] || [ "$baton" = "$binary" ] || [ "$(stat -L -c %u "$baton")" = 0 ] || continue
		exec 8<"$baton"
		said=$(timeout --foreground -k 2 20 "/proc/$$/fd/8" status -shell 2>&1 </dev/null)
		[ "$said" != answers=deploy.sh ] || return 0
	done
	die "there is no baton to ask with${said:+ ($baton: $said)}; install one beside this script or on the PATH; nothing was replaced"
}

# known FILE says whether FILE is baton, without running it: a Go program has the path of its main
# package in it, and a script that stands for baton the line that its version command prints.
known() {
	case $(head -c 2 "$1" | tr -d '\000') in
	'#!') mark='baton .*(commit ' ;;
	*) mark='path	example\.com\/baton$' ;;
	esac
	[ -n "$(sed -n "/$mark/{s/.*/x/p;q;}" "$1")" ]
}

# ask QUESTION… sets the variables that the answer's lines KEY=VALUE name, and says in $problem what is wrong.
ask() {
	problem=''
	said=$("/proc/$$/fd/8" "$@" 2>&1 </dev/null)
	code=$?
	while IFS= read -r line; do
		key=${line%%=*} value=${line#*=}
		case $key in
		active | alive | answers | again | before | drained | embedded | generation | name | pid | runs | same | \
			serves | serving | silent | target | version | waited) eval "$key=\$value" ;;
		problem) problem=$problem${problem:+$newline}$value ;;
		*) ;;
		esac
	done <<END
$said
END
	[ "$code" = 0 ] || problem=${problem:-$said}
	return "$code"
}
active='' alive='' answers='' again='' before='' drained='' embedded='' generation='' name='' pid='' runs='' same=''
serves='' serving='' silent='' target='' version='' waited=''

# look finds out what runs, when nothing is under way any more: no upgrade, start or stop.
look() {
	name='' runs='' before='' silent=''
	ask status -shell -unit "$unit" "$@" || die "$problem"
	folder=${target%/*}
	folder=${folder:-/} previous=$target.previous
	older=$target.deploy-older   # what is .previous unless this deploy succeeds
	lock=$target.deploy-lock     # held by the one deploy that runs
	new=$target.deploy-new.$$    # the new binary, not checked yet
	link=$target.deploy-link.$$  # on its way to another name; all lie beside the target, for a rename goes no further
	[ -z "$waited" ] || did waited "$unit was $waited"
}
is_file() { [ -n "$2" ] && [ "$(stat -c %d:%i "$1" 2>/dev/null)" = "$2" ]; }

# put FROM TO makes TO another name of FROM in one instant; a copy of it on a file system without hard links.
put() {
	rm -f "$link"
	problem=$(ln "$1" "$link" 2>&1) || problem=$(rm -f "$link" && cp --preserve=all "$1" "$link" 2>&1 && sync "$link" 2>&1) || return 1
	problem=$(mv -f -T "$link" "$2" 2>&1) || return 1
	rm -f "$link" # mv leaves it where both were one file already
}

# unkeep makes .previous what it was before this deploy, if the target is what it was;
# otherwise the deploy got there, and only what it no longer needs is removed.
unkeep() {
	both=$(stat -c '%s %y' "$target" "$previous" 2>/dev/null)
	if [ "${both%%"$newline"*}" != "${both#*"$newline"}" ] || [ ! -e "$previous" ]; then
		rm -f "$older"
	elif [ -e "$older" ]; then
		mv -f -T "$older" "$previous"
		rm -f "$older"
	else
		rm -f "$previous"
	fi
}

# tidy removes what is of no use to anybody, and ends the lock.
tidy() {
	if [ -n "$locked" ]; then
		[ "$phase" != kept ] || unkeep
		rm -f "$new" "$link" "$lock"
	elif [ -n "$locking" ] && flock -n 9 && is_file "$lock" "$(stat -L -c %d:%i /proc/self/fd/9)"; then
		rm -f "$lock" # interrupted in the moment after it was taken
	fi
	locked='' phase=''
}

# take_lock waits for nobody. Who holds the lock removes it, so it may be another file by now.
take_lock() {
	until is_file "$lock" "$(stat -L -c %d:%i /proc/self/fd/9 2>/dev/null)"; do
		problem=$( (: >>"$lock") 2>&1) || die "cannot write to $folder: ${problem##*: }; nothing was replaced"
		exec 9>>"$lock"
		locking=yes
		flock -n 9 || die "another deploy of $target runs (pid $(cat "$lock" 2>/dev/null)); nothing was replaced"
	done
	locked=yes
	(echo $$ >"$lock") 2>/dev/null # on a full disk it stays empty, which hinders nobody
}

# settle ends what a deploy that was killed has left: forth if its binary runs, otherwise back.
settle() {
	settled=''
	rm -f "$target".deploy-new.* "$target".deploy-link.*
	if [ -n "$runs" ] && is_file "$previous" "$runs" && ! is_file "$target" "$runs"; then
		put "$previous" "$target" || die "undo an interrupted deploy: $problem"
		settled="an earlier deploy was interrupted before its binary ran; it is undone"
	fi
	unkeep
	sync "$folder" 2>/dev/null
}

# restore WHY puts the previous binary back, and sees to it that it serves.
restore() {
	trap '' INT TERM HUP
	if ! put "$previous" "$target"; then
		wrong "$1$newline$target could not be put back: $problem; the previous binary is $previous"
		exit 1 # what is left must stay: the next run tells from it what was under way
	fi
	sync "$folder" 2>/dev/null
	did restored "$target is $was_name again"
	if ask upgrade -serves "$target" -unit "$unit" -restore ${start:+-start}; then
		did serves "generation $generation (pid $pid, version $serves)${again:+ again}"
		outcome="and generation $generation (pid $pid) serves"
	else
		outcome="but does not serve: $problem"
	fi
	phase=kept
	tidy
	wrong "$1$newline$was_name is in place again, $outcome"
	exit 1
}

# interrupted SIGNAL ends as the signal asks, but leaves nothing half done.
interrupted() {
	trap '' INT TERM HUP
	said="interrupted; nothing was replaced"
	[ "$phase" != served ] || said="interrupted; but $new_name serves, and is healthy"
	if [ "$phase" = replaced ]; then
		runs=''
		ask status -shell -unit "$unit"
		if [ -n "$runs" ] && is_file "$target" "$runs"; then
			phase=served said="interrupted; the new version serves already and stays, unproven; deploy.sh --rollback goes back"
		elif put "$previous" "$target"; then
			phase=kept said="interrupted; $target is $was_name again"
		fi
	fi
	[ "$phase" != served ] || rm -f "$older"
	wrong "$said"
	tidy
	trap - "$1"
	kill -s "$1" $$
}

report() {
	before=${before:+; before it: $before}
	[ -n "$alive" ] || die "$unit is $active; in place is ${name:-a binary that does not run}$before"
	[ -z "$silent" ] || die "nobody answers on the control socket of $unit: $silent"
	echo "$name serves: generation $generation, pid $serving$before"
}

# deploy is run with the lock held.
deploy() {
	look # it may have been another one's upgrade
	settle
	[ -z "$settled" ] || { did settled "$settled" && look; }
	was=$pid was_name=${name:-the binary before} start=''
	[ -n "$alive" ] || start=started
	[ -z "$silent" ] || die "nobody answers on the control socket of $unit, so it could not be seen what serves: $silent; nothing was replaced"
	[ -n "$start" ] || [ "$serving" = "$pid" ] ||
		die "pid $serving answers on the control socket, but systemd has $pid for the main process of $unit; nothing was replaced"

	if [ -n "$rollback" ] && [ -n "$settled" ]; then
		# Who is told to go back after an interruption means back from that.
		ask upgrade -serves "$target" -unit "$unit" -restore || die "$problem"
		did 'went back' "$was_name serves: generation $generation, pid $pid; nothing else was replaced" "$first"
		tidy
		return
	elif [ -n "$rollback" ]; then
		[ -f "$previous" ] || die "there is no $previous to go back to; nothing was replaced"
		put "$previous" "$new" || die "copy $previous: ${problem##*: }; nothing was replaced"
		binary=$previous
	else
		problem=$(cp "$binary" "$new" 2>&1 && cp --attributes-only --preserve=all "$target" "$new" 2>&1 && touch "$new" 2>&1 && sync "$new" 2>&1) ||
			die "copy $binary to $folder: ${problem##*: }; nothing was replaced"
		[ "$(stat -c '%u:%g %a' "$new")" = "$(stat -c '%u:%g %a' "$target")" ] ||
			die "cannot give the new binary the owner and mode of $target: run this as root; nothing was replaced"
	fi
	[ -z "$called" ] || binary='the new binary'
	version='' same=''
	ask check -binary "$new" -target "$target" -unit "$unit" ${force:+-force} ||
		die "$binary is no good: $problem${newline}nothing was replaced; $was_name goes on serving"
	new_name=$name
	if [ -n "$same" ] && [ -z "$force$rollback" ]; then
		[ -n "$called" ] || die "$new_name runs already; --force deploys it all the same"
		# Where there are several hosts, one may have been done before.
		ask check -health "$health" -unit "$unit" || die "$new_name runs here already, and is not healthy: $problem"
		did unchanged "$new_name serves already: generation $generation, pid $pid; $answers" "$first"
		tidy
		return
	fi
	good=" is good for today's configuration"
	[ -z "$start" ] || good="; its configuration only the start can check, for $unit is $active"
	[ -z "$embedded" ] || good=" is a whole program for this machine"
	did checked "$new_name$good"

	phase=kept
	[ ! -e "$previous" ] || put "$previous" "$older" || die "keep $previous: $problem; nothing was replaced"
	put "$target" "$previous" || die "keep $target as $previous: $problem; nothing was replaced"
	phase=replaced
	problem=$(mv -f -T "$new" "$target" 2>&1) || {
		phase=kept
		die "rename to $target: $problem; nothing was replaced"
	}
	sync "$folder" 2>/dev/null
	did replaced "$target; $was_name is kept as $previous"

	ask upgrade -serves "$target" -unit "$unit" ${start:+-start} -name "$new_name" -version "$version" -was "$was" || restore "$problem"
	[ -z "$embedded" ] || new_name=$serves
	did "${start:-reloaded}" "generation $generation serves$drained"
	ask check -health "$health" -unit "$unit" || restore "$new_name is not healthy: $problem"
	did healthy "$answers"
	phase=served
	rm -f "$older"
	did "${rollback:-deployed}" "$new_name serves in place of $was_name: generation $generation, pid $pid" "$first"
	tidy
}

unit=baton force='' may_start='' rollback='' verb='' health=/ hosts='' ssh=ssh sudo='' called='' binary=''
locked='' locking='' phase='' folder='' said='' flags=yes
while [ $# -gt 0 ]; do
	flag=$1 value=-
	case $flags:$1 in
	yes:--unit=* | yes:--health=* | yes:--host=* | yes:--ssh=* | yes:--called=*) flag=${1%%=*} value=${1#*=} ;;
	yes:--unit | yes:--health | yes:--host | yes:--ssh | yes:--called)
		value=${2-}
		[ $# = 1 ] || shift
		;;
	*) ;;
	esac
	shift
	[ -n "$value" ] || misused "$flag needs a value"
	case $flags:$flag in
	yes:--unit) unit=$value ;;
	yes:--health) health=$value ;;
	yes:--ssh) ssh=$value ;;
	yes:--called) called=$value ;; # the name that this host has for who deploys
	yes:--host)
		case $value in
		-* | *[[:space:]]*) misused "--host $value: want the name of a host" ;;
		*) hosts="$hosts${hosts:+$newline}$value" ;;
		esac
		;;
	yes:--force) force=yes ;;
	yes:--start) may_start=yes ;;
	yes:--rollback) rollback='went back' ;;
	yes:--status) verb=status ;;
	yes:--sudo) sudo=sudo ;;
	yes:-h | yes:--help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit ;;
	yes:--) flags='' ;;
	yes:-*) misused "unknown flag $flag" ;;
	*)
		[ -z "$binary" ] || misused "more than one binary: $binary and $flag"
		[ -n "$flag" ] || misused "the new binary's name is empty"
		binary=$flag
		;;
	esac
done
case $unit in
-* | *[!A-Za-z0-9:_.@\\-]*) misused "--unit $unit: want the name of a service" ;;
*.service) ;;
*) unit=$unit.service ;;
esac
case $health in
/* | http://* | https://*) ;;
*) misused "--health $health: want a path such as /healthz, or a URL" ;;
esac
case ${rollback:+rollback}:$verb:$binary in
rollback:status:*) misused "--rollback and --status exclude each other" ;;
rollback:: | :status:) ;;
rollback:*) misused "--rollback takes no binary" ;;
:status:*) misused "--status takes no binary" ;;
::) misused "which binary?" ;;
*)
	[ "${binary#-}" = "$binary" ] || binary=./$binary
	problem=''
	[ -x "$binary" ] || problem="is not executable; chmod +x makes it so"
	[ -r "$binary" ] || problem="cannot be read"
	[ -s "$binary" ] || problem="is empty"
	[ -f "$binary" ] || problem="is no regular file"
	[ -e "$binary" ] || problem="is not there"
	[ -z "$problem" ] || die "$binary $problem; nothing was replaced"
	;;
esac

trap '' PIPE # who reads the output may go, and what was begun is still brought to its end
if [ -n "$hosts" ]; then
	self=$(readlink -f "$0")
	export newline self unit force may_start rollback verb health hosts ssh sudo binary
	exec sh "${self%.sh}-hosts${self##*deploy}"
fi
for tool in systemctl flock timeout; do
	command -v "$tool" >/dev/null || die "$tool is missing; nothing was replaced"
done
umask 077
for signal in INT TERM HUP; do
	# shellcheck disable=SC2064 # the signal of now
	trap "interrupted $signal" "$signal"
done
began=$(now) first=$began me=$(id -u)
find_answers
look ${verb:+-now}
[ -z "$verb" ] || { report && exit; }
[ -n "$alive$may_start" ] || [ "$active" != inactive ] || die "$unit is stopped; --start starts it with the new binary, nothing was replaced"
take_lock
deploy 9>&- # the lock is this shell's alone: who is started here and outlives it must not keep it

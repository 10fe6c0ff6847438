#!/bin/sh
# usage: deploy.sh [flags] NEW_BINARY   deploys it
#        deploy.sh [flags] --rollback   goes back to the previous binary; a second time, forward again
#        deploy.sh [flags] --status     shows what serves, and changes nothing
#
#   --unit UNIT     the service (default: baton)
#   --force         deploys the version that runs already, too
#   --start         starts the service if it is stopped
#   --health WHAT   a path, asked for at every public address (default: /), or a whole URL; repeatable. The answer
#                   must be below 500, and no worse than that of the release before: 404 or no body after a 200
#                   is. An address for TLS is asked in TLS, and only the certificate of a URL is verified
#   --within TIME   how long each of these answers may take (default: 5s)
#   --canary SHARE, --watch TIME   try and watch the new release so, this once; in a watch, it must be healthy as well
#   --host HOST     deploys there, over ssh; repeatable: one host after the other, stopping at the first that fails,
#                   with a summary of what runs where. A host that runs the new version already is passed over
#   --ssh COMMAND   how to reach a host, as words (default: ssh)
#   --sudo          becomes root on the hosts through sudo, which must not ask for a password
#
# What is replaced is the binary that the running service was started as, behind any symlinks, which stay. The new one
# gets its owner, mode and attributes; it is checked with the arguments, the environment and the user of the running
# service before anything is replaced. The previous binary is kept as BINARY.previous; if the new one does not come to
# serve, or its health check fails, it is put back, and serves. What has crashed is kept as BINARY.crashed, to which no
# rollback leads. --rollback works at any time: it ends a deploy that runs, and waits for no drain. A service that is
# stopped is refused unless --start is given. One that failed, or is in a loop of restarts, is started with the new
# binary: that may be the cure. Its configuration is not checked before.
#
# A service of another program that embeds Baton's packages is deployed too, and its binaries are never run here: they
# have no commands for that. Its version is what it reports on its control socket, which a baton beside this script
# or on the PATH asks.
# Exit codes: 0 the new version serves; 1 it does not: stderr says why, and what serves instead; 2 bad usage;
# 128 + N interrupted by signal N.

# The script moves files. A baton at hand answers what takes more than that: what runs, whether a binary is good,
# whether it serves (go doc example.com/baton/server/deploy). Every change of a file is a rename, so that both binaries
# are whole at any instant; and the next run can tell, by which of them runs, what one that was killed was at.
set -u
export LC_ALL=C
newline='
'
now() { sed 's/\.\(..\).*/\1/' /proc/uptime; } # in hundredths of a second

# did STEP TEXT [BEGIN] tells, on stdout, a step that was made since the one before.
did() {
	took=$(($(now) - ${3:-$began}))
	printf '%-10s %4d.%02d s   %s\n' "$1" $((took / 100)) $((took % 100)) "$2" 2>/dev/null
	began=$(now)
}
wrong() {
	printf '%s\n' "$1" | while IFS= read -r line; do printf 'deploy: %s%s\n' "${called:+$called: }" "$line" 2>/dev/null; done >&2
}
misused() { wrong "$1; see deploy.sh --help"; exit 2; }
die() { tidy; wrong "$1"; exit 1; } # before anything was replaced

# known FILE says whether FILE is baton, without running it, for another program might start to serve: a Go program has
# the path of its main package in it, and a script that stands for baton the line that its version command prints.
known() {
	case $(head -c 2 "$1" | tr -d '\000') in
	'#!') mark='baton .*(commit ' ;;
	*) mark='path	example\.com\/baton$' ;;
	esac
	[ -n "$(sed -n "/$mark/{s/.*/x/p;q;}" "$1")" ]
}

# find_answers opens, as file 8, a baton that knows the questions: the one that runs, if it is not too old for them,
# and it stays the same one whatever is put in place. Root runs no file that others may change, but for the new one.
find_answers() {
	shown=$(systemctl show -p MainPID -p ExecStart "$unit" 2>&1) || die "query systemd for $unit: ${shown:-systemctl failed}"
	main=$(printf '%s\n' "$shown" | sed -n 's/^MainPID=//p') said=''
	program=$(printf '%s\n' "$shown" | sed -n 's/^ExecStart=.*path=\(.*\) ; argv\[\]=.*/\1/p')
	for baton in "/proc/$main/exe" "$program" "$program.previous" "$(readlink -f "${0%/*}")/baton" "$(command -v baton)" "$binary"; do
		if [ ! -f "$baton" ] || [ ! -r "$baton" ] || [ ! -x "$baton" ]; then continue; fi
		exec 8<"$baton"
		case $me:$baton:$(stat -L -c %u:%A /proc/$$/fd/8) in 0:"$binary":* | 0:*:0:?????-??-? | [!0]*) ;; *) continue ;; esac
		known /proc/$$/fd/8 || continue
		said=$(timeout --foreground -k 2 20 "/proc/$$/fd/8" status -shell 2>&1 </dev/null)
		[ "$said" != answered=2 ] || return 0
	done
	die "there is no baton to query the service with${said:+ ($baton: $said)}; install one beside this script or on the PATH; nothing was replaced"
}

# ask QUESTION… sets the variables of the answer, lines of KEY='VALUE' with problem='WHAT IS WRONG' among them.
ask() {
	problem='' said=$(exec "/proc/$$/fd/8" "$@" -progress 7 </dev/null) # exec: what is killed with this script is its child
	case $said in answered=2*) eval "$said" ;; *) problem="$baton does not answer: $said" ;; esac
	[ -z "$problem" ]
}

# look finds out what runs, when no upgrade, start or stop is under way any more; to go back, at once.
look() {
	name='' runs='' silent='' down=''
	ask status -shell -unit "$unit" ${rollback:+-rollback} "$@" || die "$problem"
	previous=$target.previous lock=$target.deploy-lock
	older=$target.deploy-older  # what is .previous unless this deploy succeeds
	new=$target.deploy-new.$$   # the new binary, not checked yet
	link=$target.deploy-link.$$ # on its way to another name; all are beside the target, for a rename goes no further
	[ -n "$alive" ] || down=started # instead of reloaded
	[ -z "$waited" ] || did waited "$unit was $waited"
}
is_file() { [ -n "$2" ] && [ "$(stat -c %d:%i "$1" 2>/dev/null)" = "$2" ]; }

# put FROM TO makes TO another name of FROM in one instant; a copy of it on a file system without hard links.
put() {
	rm -f "$link"
	problem=$(ln "$1" "$link" 2>&1) || problem=$(rm -f "$link" && cp --preserve=all "$1" "$link" 2>&1 && sync "$link" 2>&1) || return 1
	problem=$(mv -f -T "$link" "$2" 2>&1) && rm -f "$link" # which mv leaves if both were one file already
}

# holds writes into the lock who holds it, and what was in place; on a full disk nothing, which hinders nobody.
holds() { (echo "$$ $kind ${1-}" >"$lock") 2>/dev/null; }

# take_lock waits for nobody. Who holds the lock removes it, so it may be another file by now.
take_lock() {
	until flock -n 9 2>/dev/null && is_file "$lock" "$(stat -L -c %d:%i /proc/self/fd/9)"; do
		problem=$( (: >>"$lock") 2>&1) || die "cannot write to $directory: ${problem##*: }; nothing was replaced"
		exec 9>>"$lock"
		locking=yes
		flock -n 9 && continue
		other=$(sed 's/ .*//' "$lock" 2>/dev/null)
		{ [ -n "$rollback" ] && ask upgrade -end "$target"; } || die "another deploy of $target runs (pid $other); nothing was replaced"
		did ended "the deploy that ran (pid $other)"
	done
	locked=yes
	holds
}

# tidy removes what is of no use to anybody, and ends the lock.
tidy() {
	if [ -n "$locked" ]; then
		[ "$phase" != kept ] || ask upgrade -settle "$target"
		rm -f "$new" "$link" "$lock"
	elif [ -n "$locking" ] && flock -n 9 && is_file "$lock" "$(stat -L -c %d:%i /proc/self/fd/9)"; then
		rm -f "$lock" # interrupted in the moment after it was taken
	fi
	locked='' phase=''
}

# restore WHY puts the previous binary back, and sees to it that it serves.
restore() {
	trap '' INT TERM HUP
	if [ -n "$rollback" ] && [ -n "$lost$crashes" ]; then
		finish
		die "$1$newline$new_name stays in place, for $was_name has crashed"
	fi
	if ! put "$previous" "$target"; then
		wrong "$1$newline$target could not be put back: $problem; the previous binary is $previous"
		exit 1 # what is left must stay: the next run tells from it what was under way
	fi
	phase=kept end="but does not serve"
	did restored "$target is $was_name again"
	if ask upgrade -back "$target" -unit "$unit" ${down:+-start}; then
		did serves "generation $generation (pid $pid, version $serves)${again:+ again}"
		end="and generation $generation (pid $pid) serves"
	fi
	die "$1$newline$was_name is in place again, $end${problem:+: $problem}"
}

# finish ends a deploy that stays. What has crashed is not kept as the previous binary.
finish() {
	phase=served
	[ -z "$proved" ] || crashes=''
	ask upgrade -settle "$target" -finish ${crashes:+-crashes}
}

# interrupted SIGNAL ends as the signal asks, but leaves nothing half done.
interrupted() {
	trap '' INT TERM HUP
	end="interrupted; nothing was replaced"
	[ "$phase" != served ] || end="interrupted; but $new_name serves, and is healthy"
	if [ "$phase" = replaced ]; then
		runs='' && ask status -shell -unit "$unit" -rollback
		if is_file "$target" "$runs"; then
			phase=served end="interrupted; the new version serves already and stays, unproven; deploy.sh --rollback goes back"
		elif put "$previous" "$target"; then
			phase=kept end="interrupted; $target is $was_name again"
			ask upgrade -back "$target" -unit "$unit" ${down:+-start} # its upgrade may go on
		fi
	fi
	[ "$phase" != served ] || finish
	tidy
	wrong "$end"
	trap - "$1" && kill -s "$1" $$
}

# copy_new puts the new binary beside the target, as a file of its own name.
copy_new() {
	if [ -n "$rollback" ]; then
		[ -f "$previous" ] || die "there is no $previous to go back to; nothing was replaced"
		binary=$previous
		put "$previous" "$new" || die "copy $previous: ${problem##*: }; nothing was replaced"
		return
	fi
	problem=$(cp "$binary" "$new" 2>&1 && cp --attributes-only --preserve=all "$target" "$new" 2>&1 && touch "$new" 2>&1 && sync "$new" 2>&1) ||
		die "copy $binary to $directory: ${problem##*: }; nothing was replaced"
	[ "$(stat -c '%u:%g %a' "$new")" = "$(stat -c '%u:%g %a' "$target")" ] ||
		die "cannot give the new binary the owner and mode of $target: run this as root; nothing was replaced"
}

# deploy is run with the lock held.
deploy() {
	look # it may have been another one's upgrade
	rm -f "$target".deploy-new.* "$target".deploy-link.*
	ask upgrade -settle "$target" -runs "$runs" || die "$problem" # what a deploy that was killed has left
	[ -z "$undone" ] || { did settled "an earlier deploy was interrupted before its binary ran; it is undone"; look; }
	was=$pid was_name=${name:-the previous binary} version='' same=''
	[ -n "$rollback" ] || [ -z "$silent" ] || die "$silent; nothing was replaced"
	# After an interruption, "back" means back from that.
	if [ -n "$rollback" ] && { [ -n "$undone" ] || [ "$stands" = "$stood" ]; }; then
		ask upgrade -back "$target" -unit "$unit" || die "$problem"
		did "$step" "$was_name serves: generation $generation, pid $pid; nothing else was replaced" "$first"
		return
	fi
	copy_new
	[ -z "$called" ] || binary='the new binary'
	ask check -binary "$new" -target "$target" -unit "$unit" ${force:+-force} ${rollback:+-rollback} ||
		die "$binary is invalid: $problem${newline}nothing was replaced; $was_name goes on serving"
	new_name=$name
	if [ -n "$same" ] && [ -z "$force$rollback" ]; then
		[ -n "$called" ] || die "$new_name runs already; --force deploys it all the same" # of several hosts, one may be done
		ask check -health "$health" -within "$within" -unit "$unit" || die "$new_name runs here already, and is not healthy: $problem"
		did unchanged "$new_name serves already: generation $generation, pid $pid; $answers" "$first"
		return
	fi
	did checked "$new_name$good"
	[ -n "$down$rollback" ] || ask check -health "$health" -within "$within" -unit "$unit" -baseline || die "$problem; nothing was replaced"

	holds "$stands"
	phase=kept
	[ ! -e "$previous" ] || put "$previous" "$older" || die "keep $previous: $problem; nothing was replaced"
	put "$target" "$previous" || die "keep $target as $previous: $problem; nothing was replaced"
	phase=replaced
	problem=$(mv -f -T "$new" "$target" 2>&1) || { phase=kept; die "rename to $target: $problem; nothing was replaced"; }
	did replaced "$target; $was_name is kept as $previous"

	ask upgrade "$way" "$target" -unit "$unit" ${down:+$begin} -name "$new_name" -version "$version" -was "$was" \
		${canary:+-canary "$canary"} ${watch:+-watch "$watch"} -health "$health" -within "$within" -before "$before" || restore "$problem"
	[ -z "$embedded" ] || new_name=$serves
	did "${down:-reloaded}" "generation $generation serves"
	ask check -health "$health" -within "$within" -before "$before" -unit "$unit" || restore "$new_name is not healthy: $problem"
	did healthy "$answers"
	phase=served
	[ -n "$rollback" ] || ask upgrade -drained "$target" -unit "$unit" -generation "$generation" || { phase=replaced; restore "$new_name has crashed: $problem"; }
	[ -z "$drained" ] || did drained "$drained"
	finish
	did "$step" "$new_name serves in place of $was_name: generation $generation, pid $pid" "$first"
}

unit=baton force='' start='' rollback='' status='' health='' within=5s canary='' watch='' hosts='' ssh=ssh sudo='' called='' binary='' locked='' locking='' phase=''
active='' again='' alive='' answers='' before='' crashes='' directory='' drained='' embedded='' generation='' good='' lost='' name='' pid='' proved=''
report='' runs='' same='' serves='' silent='' stands='' stood='' target='' undone='' version='' waited='' problem='' step=deployed kind=deploy way=-serves begin=-start
while [ $# -gt 0 ]; do
	flag=${1%%=*} value=${1#*=}
	case $1 in
	--unit | --health | --within | --canary | --watch | --host | --ssh | --called | --unit=* | --health=* | --within=* | --canary=* | --watch=* | --host=* | --ssh=* | --called=*)
		if [ "$flag" = "$1" ]; then value=${2-}; [ $# = 1 ] || shift; fi
		[ -n "$value" ] || misused "$flag needs a value"
		case $flag:$value in --host:-* | --host:*[[:space:]]*) misused "--host $value: want the name of a host" ;; esac
		case $flag in
		--host) value=$hosts${hosts:+$newline}$value flag=--hosts ;;
		--within | --watch) case $value in 0 | [0-9]*[smh]) ;; *) misused "$flag $value: want a time such as 500ms or 2s" ;; esac ;;
		--canary) case $value in [0-9]*) ;; *) misused "--canary $value: want a share such as 10%" ;; esac ;;
		--health)
			case $value in /* | http://* | https://*) ;; *) misused "--health $value: want a path such as /healthz, or a URL" ;; esac
			value=$health${health:+$newline}$value
			;;
		esac
		eval "${flag#--}=\$value" # --called is the name that this host has for who deploys
		;;
	--force | --start | --status | --sudo) eval "${1#--}=yes" ;;
	--rollback) rollback=yes step='went back' kind=rollback way=-back begin='' ;;
	-h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit ;;
	-*) misused "unknown flag $1" ;;
	'') misused "the new binary's name is empty" ;;
	*) [ -z "$binary" ] || misused "more than one binary: $binary and $1"; binary=$1 ;;
	esac
	shift
done
unit=${unit%.service}.service
case $unit in -* | .service | *[!A-Za-z0-9:_.@\\-]*) misused "--unit $unit: want the name of a service" ;; esac
case ${binary:+b}${rollback:+r}${status:+s} in ?) ;; *) misused "want one of NEW_BINARY, --rollback and --status" ;; esac
for must in '-e does not exist' '-f is not a regular file' '-s is empty' '-r cannot be read' '-x is not executable; chmod +x makes it so'; do
	[ -z "$binary" ] || test "${must%% *}" "$binary" || die "$binary ${must#* }; nothing was replaced"
done
trap '' PIPE # who reads the output may go, and what was begun is still brought to its end
if [ -n "$hosts" ]; then
	self=$(readlink -f "$0")
	export newline self unit force start rollback status health within canary watch hosts ssh sudo binary
	exec sh "${self%.sh}-hosts${self##*deploy}"
fi
for tool in systemctl flock timeout; do command -v "$tool" >/dev/null || die "$tool is missing; nothing was replaced"; done
umask 077
exec 7>&1 # for progress
trap 'interrupted INT' INT; trap 'interrupted TERM' TERM; trap 'interrupted HUP' HUP
began=$(now) first=$began me=$(id -u)
find_answers
look ${status:+-now} -rollback
[ -z "$status" ] || { echo "$report"; exit; }
[ -n "$alive$start" ] || [ "$active" != inactive ] || die "$unit is stopped; --start starts it with the new binary, nothing was replaced"
take_lock
deploy 9>&- # the lock is this shell's alone: who is started here and outlives it must not keep it
tidy

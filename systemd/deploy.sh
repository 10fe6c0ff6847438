#!/bin/sh
# Deploys a release: puts a new binary in the place of the one that runs, has the
# service upgrade to it, and goes back unless the new one is seen to serve.
#
# Its one idea: what runs is the truth. The target, its arguments, its environment
# and its user are those of the process that serves. Every change of a file is a
# rename, so that both the target and the target.previous are whole at any instant;
# and who is killed between two of them leaves a state in which the next run can
# tell, by which of the files runs, what was under way (see settle).
set -u
LC_ALL=C
export LC_ALL
newline='
'

usage() {
	cat <<'END'
usage: deploy.sh [flags] NEW_BINARY   deploys it
       deploy.sh [flags] --rollback   goes back to the binary before; a second time, forth again
       deploy.sh [flags] --status     tells what serves, and changes nothing

  --unit UNIT     the service (default: baton)
  --force         deploys the version that runs already, too
  --start         starts the service if it is stopped
  --health WHAT   a path, asked for at every public address (default: /), or a whole URL,
                  asked for instead of them. The answer must be below 500. An address for TLS
                  is asked in TLS, and its certificate verified only if it is that of a URL
  --host HOST     deploys there, over ssh; repeatable: one host after the other, stopping at
                  the first that fails, with a summary of what runs where. A host that runs
                  the new version already is passed over
  --ssh COMMAND   how to reach a host, as words (default: ssh)
  --sudo          becomes root on the hosts through sudo, which must not ask for a password
  --help          this

What is replaced is the binary that the running service was started as. If that is a symlink,
what it points to in the end is replaced, and the link stays. The new binary gets its owner,
mode and attributes; it is checked with the arguments, the environment and the user of the
running service before anything is replaced. The binary before is kept as BINARY.previous.

If the new version does not come to serve, or its health check fails, the binary before is
put back, and serves. A service that is stopped is refused unless --start is given. One that
failed, or is in a loop of restarts, is started with the new binary: that may be the cure.
Its arguments are not known then, so its configuration is not checked before.

A service of another program that embeds Baton's packages is deployed too, and its binaries are
never run here: they have no commands for that. Its version is what it reports on its control
socket, which a baton beside this script or on the PATH asks.

Exit codes: 0 the new version serves; 1 it does not: stderr says why, and what serves instead;
2 bad usage; 128 + N interrupted by signal N.
END
}

# How things are said: a step that was made on stdout, what is wrong on stderr.

# clock sets $now, in hundredths of a second.
clock() {
	read -r now _ </proc/uptime
	now=$((${now%.*} * 100 + 1${now#*.} - 100))
}

# begin starts the clock of a step.
begin() {
	clock
	began=$now
}

# told TIME STEP TEXT tells a step that began at TIME.
told() {
	clock
	printf '%-10s %4d.%02d s   %s\n' "$2" $(((now - $1) / 100)) $(((now - $1) % 100)) "$3" 2>/dev/null
}

# did STEP TEXT tells a step that began with begin.
did() { told "$began" "$1" "$2"; }

# wrong TEXT tells what is wrong, a line for each of the text's.
wrong() {
	while IFS= read -r text; do
		printf 'deploy: %s%s\n' "${called:+$called: }" "$text" >&2 2>/dev/null
	done <<END
$1
END
}

misused() {
	wrong "$1; deploy.sh --help tells the usage"
	exit 2
}

# die TEXT ends a deploy before anything was replaced.
die() {
	tidy
	wrong "$1"
	exit 1
}

# quote WORD sets $quoted to the word so that a shell reads it as one.
quote() {
	quoted=\' left=$1
	while :; do
		case $left in
		*\'*) quoted="$quoted${left%%\'*}'\\''" left=${left#*\'} ;;
		*) break ;;
		esac
	done
	quoted="$quoted$left' "
}

# words SED_ARGUMENT… prints what stands NUL-separated on stdin as quoted words, after what sed
# is to do to each. A byte 1, which nobody uses, stands for the newline meanwhile.
words() { tr '\n\000' '\001\n' | sed "$@" -e "s/'/'\\\\''/g; s/^/'/; s/\$/'/" | tr '\n\001' ' \n'; }

# What runs.

# look asks systemd for the unit, and the kernel for its main process.
look() {
	load='' active='' sub='' pid=0 reloads=yes start='' words='' runs=''
	shown=$(systemctl show -p LoadState -p ActiveState -p SubState -p MainPID -p CanReload -p ExecStart "$unit" 2>&1) || return 1
	while IFS= read -r line; do
		case $line in
		LoadState=*) load=${line#*=} ;;
		ActiveState=*) active=${line#*=} ;;
		SubState=*) sub=${line#*=} ;;
		MainPID=*) pid=${line#*=} ;;
		CanReload=*) reloads=${line#*=} ;;
		ExecStart=*path=*)
			start=${line#*path=} start=${start%% ; argv\[\]=*}
			words=${line#* ; argv\[\]=} words=${words%% ; ignore_errors=*}
			;;
		esac
	done <<END
$shown
END
	case $pid in
	'' | *[!0-9]*) pid=0 ;;
	esac
	if [ "$pid" != 0 ]; then
		runs=$(stat -L -c %d:%i "/proc/$pid/exe" 2>/dev/null)
	fi
	return 0
}

# await_quiet looks until nothing is under way: an upgrade, a start or a stop.
await_quiet() {
	begin
	waited=''
	while :; do
		look || die "ask systemd for $unit: ${shown:-systemctl failed}"
		case $active:$sub in
		activating:auto-restart*) break ;;
		reloading:* | activating:* | deactivating:*) ;;
		*) break ;;
		esac
		clock
		if [ $((now - began)) -gt 30000 ]; then
			die "$unit has been $active for 300 s; nothing was replaced"
		fi
		waited="$unit was $active"
		sleep 0.1
	done
	if [ -n "$waited" ]; then
		did waited "$waited"
	fi
}

# learn reads what the main process was given: its program, arguments, environment, user.
learn() {
	[ "$learned" != "$pid" ] || return 0
	commandline=$(words 2>/dev/null <"/proc/$pid/cmdline") || return 1
	environment=$(words 2>/dev/null -e '/^[A-Za-z_][A-Za-z0-9_]*=/!d' -e '/^NOTIFY_SOCKET=/d' -e '/^WATCHDOG_/d' \
		-e '/^LISTEN_/d' -e '/^TABLEFLIP_/d' <"/proc/$pid/environ") || return 1
	uid='' gid='' groups=''
	while read -r key value rest; do
		case $key in
		Uid:) uid=$value ;;
		Gid:) gid=$value ;;
		Groups:)
			for group in $value $rest; do
				groups="$groups${groups:+,}$group"
			done
			;;
		esac
	done 2>/dev/null <"/proc/$pid/status"
	[ -n "$uid" ] && [ -n "$commandline" ] || return 1

	eval "learn_control $commandline"
	# The view that the service has: its folders, as hardening has it, and its user. What is
	# run in a namespace that the service may have changed is not run as root there.
	set_groups='' set_user='' view=''
	if [ "$me" = 0 ] && [ "$uid" != 0 ]; then
		set_groups="setpriv --regid=$gid --no-new-privs --groups=$groups"
		[ -n "$groups" ] || set_groups="setpriv --regid=$gid --no-new-privs --clear-groups"
		set_user="-S $uid"
	fi
	if [ "$me" = 0 ]; then
		view="$set_groups nsenter -t $pid -m -r -w $set_user"
		# shellcheck disable=SC2086 # words
		$view test -d "${folder:-/}" 2>/dev/null || view="env -C /proc/$pid/cwd $set_groups ${set_groups:+--reuid=$uid}"
	else
		view="env -C /proc/$pid/cwd"
	fi
	learned=$pid
}

# learn_control ARGUMENT… finds what the commands of baton need to find the control socket.
learn_control() {
	program=$1 control=''
	while [ $# -gt 1 ]; do
		shift
		case $1 in
		-control=* | --control=* | -config=* | --config=*)
			quote "$1"
			control="$control$quoted"
			;;
		-control | --control | -config | --config)
			quote "${2-}"
			control="$control $1 $quoted"
			[ $# -eq 1 ] || shift
			;;
		esac
	done
}

# as_service COMMAND runs a command as the running service would, for 20 s at most. The
# environment goes through a pipe: what stands in a command line, everybody can read.
as_service() {
	# shellcheck disable=SC2086 # words
	timeout --foreground -k 2 20 $view env -i /bin/sh -s "$@" <<END
unset PWD OLDPWD SHLVL
${environment:+export $environment}
exec "\$@" </dev/null
END
}

# known FILE says whether FILE is baton, without running it: a Go program has the path of its main
# package in it, and a script that stands for baton the line that its version command prints. Whatever
# else embeds Baton's packages may take "version" for nothing, and start to serve.
known() {
	case $(head -c 2 "$1" 2>/dev/null | tr -d '\000') in
	'#!') mark='baton .*(commit ' ;;
	*) mark='path	example\.com\/baton$' ;;
	esac
	[ -n "$(sed -n "/$mark/{s/.*/x/p;q;}" "$1" 2>/dev/null)" ]
}

# find_client sets $client_baton to a baton that can ask on the control socket.
find_client() {
	for client_baton in "$target" "$(readlink -f "${0%/*}")/baton" "$(command -v baton)"; do
		if [ -x "$client_baton" ] && known "$client_baton"; then
			return 0
		fi
	done
	status="there is no baton to ask with; install one beside this script or on the PATH"
	return 1
}

# control_sockets prints the unix sockets on which the main process listens that only its user may use.
control_sockets() {
	sockets=$(find "/proc/$pid/fd" -lname 'socket:*' -printf '%l\n' 2>/dev/null)
	while read -r _ _ _ flags _ _ inode socket; do
		case $flags:$socket:$newline$sockets$newline in
		00010000:/*:*"${newline}socket:[$inode]$newline"*)
			[ "$(stat -c %a "/proc/$pid/root$socket" 2>/dev/null)" != 600 ] || printf '%s\n' "$socket"
			;;
		esac
	done <"/proc/$pid/net/unix"
}

# ask asks on the control socket which generation serves.
ask() {
	find_client || return 1
	if [ -z "$embedded" ]; then
		eval "ask_at $control"
		return
	fi
	status="pid $pid has none"
	while IFS= read -r socket; do
		[ -z "$socket" ] || ! ask_at -control "$socket" || return 0
	done <<END
$(control_sockets)
END
	return 1
}

# ask_at FLAGS… asks with the flags that name the control socket.
ask_at() {
	generation='' serving='' serves='' state='' listen='' within=''
	status=$(as_service "$client_baton" status -json -timeout 10s "$@" 2>&1) || return 1
	while IFS= read -r line; do
		value=${line#*: } value=${value%,} value=${value#\"} value=${value%\"}
		case $line in
		'  "generation": '*) generation=$value ;;
		'  "pid": '*) serving=$value ;;
		'  "version": '*) serves=$value ;;
		'  "state": '*) state=$value ;;
		'  "listen": ['*) within=listen ;;
		'  ]'*) within='' ;;
		'    "'*)
			value=${line#*\"}
			[ -z "$within" ] || listen="$listen${value%\"*}$newline"
			;;
		esac
	done <<END
$status
END
	[ -n "$serving" ] && return 0
	status="status -json is not understood: $status"
	return 1
}

# version_of COMMAND … sets $version, $build, which is all of it, and $name, which is for people,
# from what `COMMAND … version` prints; $version to what it prints instead if it is not that.
version_of() {
	version=$("$@" version 2>&1)
	code=$?
	name='' build=''
	# The line may come after a shell's complaint.
	case $code:$newline$version in
	0:*"${newline}baton "*' (commit '*)
		build=$newline$version
		build=${build#*"${newline}baton "} build=${build%%"$newline"*} build=${build%%, go*}
		version=${build%% (commit *}
		name="$version ($(printf %.7s "${build#* (commit }"))"
		return 0
		;;
	esac
	return 1
}

# name_of FILE sets $name and $build of a binary that need not run now.
name_of() {
	if known "$1"; then
		version_of timeout --foreground -k 2 20 "$1" </dev/null
		return
	fi
	name=$1 build='' # what it is not known to understand, it is not told
}

# running sets $name and $version of what runs: as its file tells them, if that is in place.
running() {
	if [ -n "$embedded" ]; then
		:
	elif [ -z "$runs" ] || [ "$runs" = "$(stat -c %d:%i "$target")" ]; then
		version_of as_service "$target" && return 0
	fi
	version=$serves name=$serves build=''
}

# The files. All of them lie beside the target, for a rename goes no further:
#   target.deploy-new.PID    the new binary, not checked yet
#   target.deploy-link.PID   on its way to another name
#   target.deploy-older      what is .previous unless this deploy succeeds
#   target.deploy-lock       held by the one deploy that runs

# same says whether two names lead to the same binary: to one file or, where a file system has
# no hard links, to one and its copy.
same() {
	both=$(stat -c '%s %y' "$1" "$2" 2>/dev/null) && [ "${both%%"$newline"*}" = "${both#*"$newline"}" ]
}

# put FROM TO makes TO another name of the binary FROM, in one instant.
put() {
	rm -f "$link"
	problem=$(ln "$1" "$link" 2>&1) || problem=$(rm -f "$link" && cp --preserve=all "$1" "$link" 2>&1 && sync "$link" 2>&1) || return 1
	problem=$(mv -f -T "$link" "$2" 2>&1) || return 1
	rm -f "$link" # mv leaves it where both were one file already
}

# unkeep makes .previous what it was before this deploy, if the target is what it was;
# otherwise the deploy got there, and only what it no longer needs is removed.
unkeep() {
	if ! same "$target" "$previous"; then
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
	if [ -z "$locked" ]; then
		# Interrupted in the moment after the lock was taken, perhaps.
		[ -z "$locking" ] || ! flock -n 9 || ! is_the_lock || rm -f "$lock"
		return 0
	fi
	case $phase in
	kept) unkeep ;;
	esac
	rm -f "$new" "$link" "$lock"
	locked='' phase=''
}

# is_the_lock says whether what was locked is the lock file still: who holds it removes it.
is_the_lock() { [ "$(stat -c %d:%i "$lock" 2>/dev/null)" = "$(stat -L -c %d:%i /proc/self/fd/9)" ]; }

# take_lock waits for nobody.
take_lock() {
	while :; do
		problem=$( (umask 077; : >>"$lock") 2>&1) || die "cannot write to $folder: ${problem##*: }; nothing was replaced"
		exec 9>>"$lock"
		locking=yes
		flock -n 9 || die "another deploy of $target runs (pid $(cat "$lock" 2>/dev/null)); nothing was replaced"
		! is_the_lock || break
	done
	locked=yes
	# On a full disk the file stays empty, which hinders nobody.
	(echo $$ >"$lock") 2>/dev/null
}

# settle finds out what a deploy that was killed has left, and ends it: forth if its
# binary runs, otherwise back. It sets $settled to what was done.
settle() {
	settled=''
	rm -f "$target".deploy-new.* "$target".deploy-link.*
	if [ -n "$runs" ] && [ -e "$previous" ] && [ "$runs" = "$(stat -c %d:%i "$previous")" ] &&
		[ "$runs" != "$(stat -c %d:%i "$target")" ]; then
		put "$previous" "$target" || die "undo an interrupted deploy: $problem"
		settled="an earlier deploy was interrupted before its binary ran; it is undone"
	fi
	unkeep
	sync "$folder" 2>/dev/null
}

# Whether a binary is any good.

# explain FILE tells, from the header, why it does not run; $elf is not set if it has none.
explain() {
	elf='' machine=''
	size=$(stat -L -c %s "$1")
	# shellcheck disable=SC2046 # bytes
	set -- "$1" $(od -An -v -tu1 -N20 "$1" 2>/dev/null)
	[ "${2-} ${3-} ${4-} ${5-}" = '127 69 76 70' ] && [ $# = 21 ] || return 0
	elf=$6
	machine=$((${20} + 256 * ${21}))
	[ "$7" = 1 ] || machine=$((256 * ${20} + ${21}))
}

# machine_name NUMBER is that of the ELF specification.
machine_name() {
	case $1 in
	3) echo 386 ;; 8) echo mips ;; 20) echo ppc ;; 21) echo ppc64 ;; 22) echo s390x ;; 40) echo arm ;;
	62) echo amd64 ;; 183) echo arm64 ;; 243) echo riscv64 ;; 258) echo loong64 ;; *) echo "machine $1" ;;
	esac
}

# whole FILE says whether all is there that the tables of a 64-bit ELF file promise.
whole() {
	explain "$1"
	[ "$elf" = 2 ] || return 0
	# The file's header: where the tables are, how long an entry is, and how many there are.
	# shellcheck disable=SC2046 # numbers
	set -- "$1" $(od -An -v -td8 -j32 -N16 "$1") $(od -An -v -tu2 -j54 -N8 "$1")
	[ $# = 7 ] && [ "$4" = 56 ] || return 1
	end=$(($2 + $4 * $5))
	[ "$end" -le "$size" ] || return 1
	ends "$(od -An -v -w56 -td8 -j"$2" -N$(($4 * $5)) "$1")" segment
	if [ "$7" != 0 ]; then
		[ "$6" = 64 ] && [ $(($3 + $6 * $7)) -le "$size" ] || return 1
		ends "$(od -An -v -w64 -td8 -j"$3" -N$(($6 * $7)) "$1")" section
	fi
	[ "$end" -le "$size" ]
}

# ends TABLE KIND moves $end to where the last thing ends that the table tells of. Words 2 and 5
# of a segment are its offset and size in the file, 4 and 5 of a section; one of kind 8 has no bytes.
ends() {
	while read -r one two _ four five _; do
		[ -n "$five" ] || continue
		case $2 in
		segment) four=$two ;;
		section) [ $((one >> 32)) != 8 ] || continue ;;
		esac
		[ $((four + five)) -le "$end" ] || end=$((four + five))
	done <<END
$1
END
}

# check_new says in $problem why the new binary is no good for this service.
check_new() {
	# Seen from the header, and before it is run: execvp, which all tools use, would hand a file
	# that the kernel refuses to a shell.
	problem='it is no program'
	explain "$new"
	case $elf:$(head -c 2 "$new" | tr -d '\000') in
	?:* | ':#!') ;;
	*) return 1 ;;
	esac
	its=$machine kind=$elf
	explain /proc/self/exe # of od: what this machine runs
	case $its:$machine in
	3:62 | 62:3) ;; # which the one kernel may run as well
	*)
		if [ -n "$kind" ] && [ "$its" != "$machine" ]; then
			problem="it is for $(machine_name "$its"), and this machine is $(machine_name "$machine")"
			return 1
		fi
		;;
	esac
	whole "$new" || {
		problem="it is truncated: its tables tell of more than its $size bytes"
		return 1
	}
	if [ -n "$embedded" ]; then
		name='the new binary' version='' build=''
		problem="it is baton, and $unit runs another program; --force deploys it all the same"
		[ -n "$force" ] || ! known "$new"
		return
	fi
	problem="it is not baton, which $unit runs"
	known "$new" || return 1
	set -- timeout --foreground -k 2 20
	[ "$pid" = 0 ] || set -- as_service
	if ! version_of "$@" "$new" </dev/null; then
		case $code in
		124 | 137) version="no answer within 20 s" ;;
		esac
		problem="its version command fails (exit code $code): ${version:-it prints nothing}"
		return 1
	fi
	if [ "$pid" = 0 ]; then
		return 0
	fi
	eval "set -- $commandline"
	shift
	problem=$(as_service "$new" check "$@" 2>&1) && return 0
	problem="its check of today's configuration fails (exit code $?):
$problem"
	return 1
}

# Whether the service is any good.

# fetch URL OPTIONS… sets $code to the status of the answer, or to what is wrong.
fetch() {
	if [ "$client" = curl ]; then
		code=$(curl -q -sS -o /dev/null -w '%{http_code}' --noproxy '*' --max-time 5 "$@" 2>&1)
	else
		code=$(wget --no-config -S -O /dev/null -t 1 -T 5 --no-proxy --max-redirect=0 "$@" 2>&1 |
			sed -n -e 's/^ *HTTP\/[0-9.]* \([0-9][0-9][0-9]\).*/\1/p' -e 's/^.*failed: \(.*\)\.$/\1/p' | tail -n 1)
	fi
}

# fetch_at AUTHORITY OPTIONS… fetches $health from an address of the service. One that is for TLS says
# so with 400, and in words. Its certificate is for names, not for this address, and is not verified.
fetch_at() {
	authority=$1
	shift
	fetch "http://$authority$health" "$@"
	[ "$code" = 400 ] || return 0
	case $client in
	curl)
		said=$(curl -q -s --noproxy '*' --max-time 5 "http://$authority$health" "$@" | head -c 200 | tr -d '\000')
		set -- --insecure "$@"
		;;
	*)
		said=$(wget --no-config -q -O - --content-on-error -t 1 -T 5 --no-proxy "http://$authority$health" "$@" | head -c 200 | tr -d '\000')
		set -- --no-check-certificate "$@"
		;;
	esac
	case $said in
	*'HTTP request to an HTTPS server'*) fetch "https://$authority$health" "$@" ;;
	*) ;; # the application's own
	esac
}

# judge NAME puts the answer into $answers or $problem.
judge() {
	label=$1
	case $code in
	[1-4][0-9][0-9])
		answers="$answers${answers:+, }$label answers $code"
		return 0
		;;
	[5-9][0-9][0-9]) problem="$label answers $code" ;;
	*)
		code=${code#000} code=${code%000}
		problem="$label does not answer: $(printf %s "$code" | tr -d '\n')"
		;;
	esac
	return 1
}

# healthy_once asks all that is to be asked.
healthy_once() {
	answers='' problem=''
	case $health in
	*://*)
		fetch "$health"
		judge "$health"
		return
		;;
	esac
	while IFS= read -r address; do
		case $address in
		'') ;;
		unix:*)
			if [ "$client" != curl ]; then
				answers="$answers${answers:+, }$address not asked (that needs curl)"
			else
				fetch_at localhost --unix-socket "${address#unix:}"
				judge "$address$path" || return 1
			fi
			;;
		*)
			port=${address##*:} at=${address%:*}
			case $at in
			'' | '*' | 0.0.0.0) at=127.0.0.1 ;;
			'[::]') at='[::1]' ;;
			esac
			fetch_at "$at:$port"
			judge "$address$path" || return 1
			;;
		esac
	done <<END
$listen
END
	[ -n "$answers" ] || answers="no address is known to ask at; --health names one"
	return 0
}

# healthy allows for one bad moment, as of a backend that was just restarted.
healthy() {
	path=$health
	[ "$path" != / ] || path=''
	healthy_once || { sleep 0.5 && healthy_once; } || { sleep 1 && healthy_once; }
}

# serves_well HUNDREDTHS looks for so long until what is in place serves: what systemd has for
# the main process is what answers on the control socket, and runs the file in place.
serves_well() {
	begin_wait=''
	while :; do
		clock
		[ -n "$begin_wait" ] || begin_wait=$now
		problem=''
		if ! look; then
			problem="ask systemd for $unit: $shown"
		elif [ "$active" = failed ] || [ "$active" = inactive ]; then
			problem="$unit is $active"
			return 1
		elif [ "$pid" = 0 ] || ! learn; then
			problem="$unit is $active ($sub), and has no main process"
		elif ! ask; then
			problem="nobody answers on the control socket: $status"
		elif [ "$serving" != "$pid" ]; then
			problem="pid $serving serves, but systemd has $pid for the main process"
		elif [ -n "$runs" ] && [ "$runs" != "$(stat -c %d:%i "$target")" ]; then
			problem="generation $generation (pid $pid, version $serves) serves, which is not the binary in place"
			[ -z "$restoring" ] || return 1 # it will not go by itself
			[ "$state" != upgrading ] || begin_wait=$now # a reload that does not wait; the service does not for ever
		else
			case $state in
			serving | upgrading) return 0 ;;
			esac
			problem="generation $generation (pid $pid) is $state"
		fi
		[ $((now - begin_wait)) -lt "$1" ] || return 1
		sleep 0.05
	done
}

# The deploy.

# reload VERB has the service upgrade, or restart, and collects in $said what baton says about it.
reload() {
	since=$(journalctl -q -u "$unit" -n 0 --show-cursor 2>/dev/null | sed -n 's/^-- cursor: //p')
	output=$(systemctl "$1" "$unit" 2>&1)
	code=$?
	# What the commands of the unit say goes to the journal.
	said=''
	if [ -n "$since" ]; then
		journalctl --sync >/dev/null 2>&1
		said=$(journalctl -q -u "$unit" -o cat --after-cursor "$since" 2>/dev/null)
	fi
	said=$(printf '%s\n%s\n' "$said" "$output" | tr -d '\000-\010\013-\037\177' | sed -n -e '/^baton: /p' -e '/^  | /p' -e '/^generation [0-9]* (pid /p' | sed -n 1,30p)
	return "$code"
}

# restore puts the previous binary back, and sees to it that it serves. It tells how
# that went, and why it had to be: $1.
restore() {
	trap '' INT TERM HUP
	begin
	why=$1
	if ! put "$previous" "$target"; then
		wrong "$why
$target could not be put back: $problem; the previous binary is $previous"
		locked='' # what is left must stay: the next run tells from it what was under way
		exit 1
	fi
	sync "$folder" 2>/dev/null
	did restored "$target is $was_name again"
	begin
	restoring=yes tries=0 again=''
	until serves_well 1000; do
		verb=reload
		case $active in
		inactive | failed)
			[ "$alive" = yes ] || break # and it was not before
			verb=restart
			systemctl reset-failed "$unit" 2>/dev/null
			;;
		esac
		tries=$((tries + 1)) again=' again'
		[ "$tries" -lt 3 ] || break
		reload "$verb"
	done
	if [ -z "$problem" ]; then
		did serves "generation $generation (pid $pid, version $serves)$again"
		outcome="$was_name is in place again, and generation $generation (pid $pid) serves"
	else
		outcome="$was_name is in place again, but does not serve: $problem"
	fi
	unkeep
	tidy
	wrong "$why
$outcome"
	exit 1
}

# interrupted SIGNAL ends as the signal asks, but leaves nothing half done.
interrupted() {
	trap '' INT TERM HUP
	begin
	case $phase in
	replaced)
		await_quiet
		if [ -n "$runs" ] && [ "$runs" = "$(stat -c %d:%i "$target")" ]; then
			wrong "interrupted; the new version serves already and stays, unproven; deploy.sh --rollback goes back"
			phase=served
			rm -f "$older"
		elif put "$previous" "$target"; then
			phase=kept
			wrong "interrupted; $target is $was_name again"
		fi
		;;
	served)
		rm -f "$older"
		wrong "interrupted; but $new_name serves, and is healthy"
		;;
	*) wrong "interrupted; nothing was replaced" ;;
	esac
	tidy
	trap - "$1"
	kill -s "$1" $$
	exit 1
}

# locate finds the target, and whether there is a service to upgrade.
locate() {
	me=$(id -u)
	if [ -z "$verb" ]; then
		await_quiet
	else
		look || die "ask systemd for $unit: ${shown:-systemctl failed}"
	fi
	[ "$load" = loaded ] || die "there is no $unit: systemd says it is ${load:-unknown}"
	alive=yes
	case $active:$sub in
	active:* | reloading:*) [ "$pid" != 0 ] || die "$unit has no main process" ;;
	inactive:*)
		[ -n "$may_start$verb" ] || die "$unit is stopped; --start starts it with the new binary, nothing was replaced"
		alive=no
		;;
	*) alive=no ;;
	esac
	[ "$alive" = yes ] || pid=0 runs=''
	program=$start
	if [ "$alive" = yes ]; then
		learn || die "cannot read the environment of pid $pid, the main process of $unit: run this as root, or as the user of the service"
		[ "$me" = 0 ] || [ "$me" = "$uid" ] || die "$unit runs as user $uid: run this as root, or as that user"
		[ "$reloads" = yes ] || die "$unit has no ExecReload=, and so cannot upgrade"
	fi
	case $program in
	"$start") ;;
	/*)
		# Behind something like numactl or env, it is named in the line all the same.
		case " $words " in
		*" $program "*) ;;
		*) die "$unit is told to run $start, but what runs was started as $program: restart it first; nothing was replaced" ;;
		esac
		;;
	*) program=$start ;; # where execve found it, then
	esac
	target=$(readlink -f "$program")
	if [ ! -f "$target" ]; then
		hint=''
		[ "$alive" = no ] || hint=", as with: cp /proc/$pid/exe $program"
		die "$program, which $unit runs, is not there; put a binary in its place$hint"
	fi
	embedded=''
	if [ "$alive" = yes ]; then
		known "/proc/$pid/exe" || embedded=yes
	else
		known "$target" || embedded=yes
	fi
	folder=${target%/*}
	[ -n "$folder" ] || folder=/
	previous=$target.previous older=$target.deploy-older lock=$target.deploy-lock
	new=$target.deploy-new.$$ link=$target.deploy-link.$$
}

# deploy does it all, for one service on this machine.
deploy() {
	clock
	first=$now
	locate
	if [ -n "$verb" ]; then
		report
		return
	fi
	take_lock
	# The lock is this shell's alone: who is started here and outlives it must not keep it.
	deploy_locked 9>&-
}

deploy_locked() {
	await_quiet # it may have been another one's upgrade
	[ "$alive" = yes ] || pid=0 runs=''
	settle
	if [ -n "$settled" ]; then
		did settled "$settled"
	fi

	begin
	if [ "$alive" = yes ]; then
		problem="pid $pid ended"
		if ! learn || ! ask; then
			die "nobody answers on the control socket of $unit, so it could not be seen what serves: ${status:-$problem}; nothing was replaced"
		fi
		[ "$serving" = "$pid" ] || die "pid $serving answers on the control socket, but systemd has $pid for the main process of $unit; nothing was replaced"
		running
	else
		name_of "$target" || name="the binary before" build=''
	fi
	was=$pid was_name=$name was_build=$build

	if [ -z "$rollback" ]; then
		problem=$(cp "$binary" "$new" 2>&1 && cp --attributes-only --preserve=all "$target" "$new" 2>&1 && touch "$new" 2>&1 && sync "$new" 2>&1) ||
			die "copy $binary to $folder: ${problem##*: }; nothing was replaced"
		[ "$(stat -c '%u:%g %a' "$new")" = "$(stat -c '%u:%g %a' "$target")" ] ||
			die "cannot give the new binary the owner and mode of $target: run this as root; nothing was replaced"
	elif [ -n "$settled" ]; then
		# Who is told to go back after an interruption means back from that.
		serves_well 1000 || die "$problem"
		told "$first" 'went back' "$was_name serves: generation $generation, pid $pid; nothing else was replaced"
		tidy
		return
	else
		[ -f "$previous" ] || die "there is no $previous to go back to; nothing was replaced"
		binary=$previous
		problem=$(ln "$previous" "$new" 2>&1) || problem=$(cp --preserve=all "$previous" "$new" 2>&1 && sync "$new" 2>&1) ||
			die "copy $previous: ${problem##*: }; nothing was replaced"
	fi
	[ "$alive" = no ] || learn || die "the main process of $unit, pid $pid, ended; nothing was replaced"
	[ -z "$called" ] || binary='the new binary'
	check_new || die "$binary is no good: $problem
nothing was replaced; $was_name goes on serving"
	new_name=$name new_version=$version
	same=''
	if [ -n "$embedded" ]; then
		[ "$(sha256sum <"$new")" != "$(sha256sum <"$target")" ] || same=yes
	elif [ "$build" = "$was_build" ]; then
		same=yes
	fi
	if [ -n "$same" ] && [ -z "$force$rollback" ] && [ "$alive" = yes ]; then
		# Where there are several hosts, one may have been done before.
		if [ -n "$called" ] && [ "$runs" = "$(stat -c %d:%i "$target")" ]; then
			healthy || die "$new_name runs here already, and is not healthy: $problem"
			told "$first" unchanged "$new_name serves already: generation $generation, pid $pid; $answers"
			tidy
			return
		fi
		die "$new_name runs already; --force deploys it all the same"
	fi
	if [ -n "$embedded" ]; then
		did checked "$new_name is a whole program for this machine"
	elif [ "$alive" = yes ]; then
		did checked "$new_name is good for today's configuration"
	else
		did checked "$new_name; its configuration only the start can check, for $unit is $active"
	fi

	begin
	phase=kept
	if [ -e "$previous" ]; then
		problem=$(ln "$previous" "$older" 2>&1) || problem=$(cp --preserve=all "$previous" "$older" 2>&1) ||
			die "keep $previous: $problem; nothing was replaced"
	fi
	put "$target" "$previous" || die "keep $target as $previous: $problem; nothing was replaced"
	phase=replaced
	problem=$(mv -f -T "$new" "$target" 2>&1) || {
		phase=kept
		die "rename to $target: $problem; nothing was replaced"
	}
	sync "$folder" 2>/dev/null
	did replaced "$target; $was_name is kept as $previous"

	begin
	if [ "$alive" = yes ]; then
		reload reload || restore "reload of $unit failed:
$(printf '%s\n' "${said:-$output}" | sed '/^generation .* goes on serving$/d')"
	else
		systemctl reset-failed "$unit" 2>/dev/null
		reload restart || restore "start of $unit failed:
${said:-$output}"
	fi
	serves_well 500 || restore "$new_name does not serve: $problem"
	[ "$pid" != "$was" ] || restore "$unit did not upgrade: pid $pid serves still"
	if [ -n "$embedded" ]; then
		new_name=$serves
	else
		[ "$serves" = "$new_version" ] || restore "$serves serves, not $new_version"
	fi
	drained=$(printf '%s\n' "$said" | sed -n 's/^generation .*\(; generation .*\)/\1/p' | tail -n 1)
	if [ "$alive" = yes ]; then
		did reloaded "generation $generation serves$drained"
	else
		did started "generation $generation serves"
	fi

	begin
	healthy || restore "$new_name is not healthy: $problem"
	did healthy "$answers"
	phase=served
	rm -f "$older"
	told "$first" "${rollback:-deployed}" "$new_name serves in place of $was_name: generation $generation, pid $pid"
	tidy
}

# report tells what serves.
report() {
	before=''
	if [ -f "$previous" ] && name_of "$previous"; then
		before="; before it: $name"
	fi
	if [ "$alive" = no ]; then
		name_of "$target" || name="a binary that does not run"
		wrong "$unit is $active; in place is $name$before"
		exit 1
	fi
	if ! ask; then
		wrong "nobody answers on the control socket of $unit: $status"
		exit 1
	fi
	running
	printf '%s serves: generation %s, pid %s%s\n' "$name" "$generation" "$serving" "$before"
}

# The same on other hosts.

# over HOST WORDS… runs this script there, with those words; stdin is the new binary, or empty.
over() {
	to=$1
	shift
	# What runs there first is as short as can be. It gets this script and the binary in one
	# stream, and makes sure that both are whole.
	# shellcheck disable=SC2016 # expanded over there
	remote='umask 077; d=$(mktemp -d "${TMPDIR:-/tmp}/deploy.XXXXXX") || exit 1; trap "rm -rf \"$d\"" EXIT; trap "exit 1" HUP INT TERM; head -c "$1" >"$d/deploy.sh" && cat >"$d/new" && chmod 755 "$d/new" && [ "$(cat "$d/deploy.sh" "$d/new" | sha256sum)" = "$2" ] || { echo "deploy: $3: the copy did not arrive whole; nothing was changed" >&2; exit 1; }; if [ "$4" = sudo ]; then s="sudo -n"; else s=; fi; n=$5; shift 5; if [ "$n" = new ]; then set -- "$@" "$d/new"; fi; $s sh "$d/deploy.sh" "$@" </dev/null'
	line='sh -c'
	for word in "$remote" deploy "$@"; do
		quote "$word"
		line="$line $quoted"
	done
	# shellcheck disable=SC2086 # words
	$ssh -o BatchMode=yes -o ConnectTimeout=10 "$to" "$line"
}

# send HOST WHAT WORDS… runs this script on the host. WHAT is new to send the binary, too.
send() {
	what=$2
	host=$1
	shift 2
	set -- --unit "$unit" --called "$host" "$@"
	if [ "$what" = new ]; then
		# A host that cannot be reached does not read it, which is not worth a word of cat.
		cat "$self" "$binary" 2>/dev/null | over "$host" "$size" "$sum" "$host" "$sudo" new "$@"
	else
		over "$host" "$size" "$self_sum" "$host" "$sudo" none "$@" <"$self"
	fi
}

deploy_hosts() {
	self=$0
	[ -f "$self" ] || self=$(command -v -- "$0")
	[ -r "$self" ] || {
		wrong "cannot read this script, $0, to send it to the hosts"
		exit 1
	}
	size=$(stat -L -c %s "$self")
	self_sum=$(sha256sum <"$self")
	what=none
	if [ -n "$binary" ]; then
		what=new
		sum=$(cat "$self" "$binary" | sha256sum)
	fi
	set -- --health "$health"
	[ -z "$force" ] || set -- "$@" --force
	[ -z "$may_start" ] || set -- "$@" --start
	[ -z "$rollback" ] || set -- "$@" --rollback

	failed='' results='' width=4
	while IFS= read -r host; do
		[ ${#host} -le "$width" ] || width=${#host}
		if [ -n "$verb" ]; then
			results="$results$host -$newline"
			continue
		elif [ -n "$failed" ]; then
			results="$results$host not touched$newline"
			continue
		fi
		printf '%s:\n' "$host"
		send "$host" "$what" "$@" </dev/null
		code=$?
		if [ "$code" = 0 ]; then
			results="$results$host done$newline"
			continue
		fi
		[ "$code" != 255 ] || wrong "$host: cannot be reached with $ssh"
		failed=$host
		results="$results$host failed$newline"
	done <<END
$hosts
END
	[ -n "$verb" ] || echo
	while read -r host result; do
		[ -n "$host" ] || continue
		runs=$(send "$host" none --status </dev/null 2>&1) || {
			[ -z "$verb" ] || failed=$host
			runs="unknown: ${runs##*"$newline"}"
		}
		runs=${runs##*"$newline"}
		if [ -n "$verb" ]; then
			printf "%-${width}s   %s\n" "$host" "$runs"
		else
			printf "%-${width}s   %-11s   %s\n" "$host" "$result" "$runs"
		fi
	done <<END
$results
END
	if [ -z "$verb" ] && [ -n "$failed" ]; then
		wrong "stopped at $failed"
	fi
	[ -z "$failed" ]
}

# The command line.

unit=baton force='' may_start='' rollback='' verb='' health=/ hosts='' ssh=ssh sudo='' called='' binary=''
learned='' locked='' locking='' phase='' new='' folder='' status='' restoring='' settled='' embedded=''
flags=yes
while [ $# -gt 0 ]; do
	if [ -n "$flags" ]; then
		case $1 in
		--unit=* | --health=* | --host=* | --ssh=* | --called=*)
			value=${1#*=} name=${1%%=*}
			shift
			set -- "$name" "$value" "$@"
			;;
		esac
		case $1 in
		--unit | --health | --host | --ssh | --called)
			[ -n "${2-}" ] || misused "$1 needs a value"
			;;
		esac
		case $1 in
		--unit) unit=$2 ;;
		--health) health=$2 ;;
		--ssh) ssh=$2 ;;
		--called) called=$2 ;; # the name that this host has for who deploys
		--host)
			case $2 in
			-* | *[[:space:]]*) misused "--host $2: want the name of a host" ;;
			esac
			hosts="$hosts${hosts:+$newline}$2"
			;;
		--force) force=yes ;;
		--start) may_start=yes ;;
		--rollback) rollback='went back' ;;
		--status) verb=status ;;
		--sudo) sudo=sudo ;;
		-h | --help)
			usage
			exit 0
			;;
		--) flags='' ;;
		-*) misused "unknown flag $1" ;;
		*)
			[ -z "$binary" ] || misused "more than one binary: $binary and $1"
			binary=$1
			[ -n "$binary" ] || misused "the new binary's name is empty"
			;;
		esac
		case $1 in
		--unit | --health | --host | --ssh | --called) shift ;;
		esac
	else
		[ -z "$binary" ] || misused "more than one binary: $binary and $1"
		binary=$1
	fi
	shift
done
case $unit in
-* | '' | *[!A-Za-z0-9:_.@\\-]*) misused "--unit $unit: want the name of a service" ;;
*.service) ;;
*) unit=$unit.service ;;
esac
case $health in
/* | http://* | https://*) ;;
*) misused "--health $health: want a path such as /healthz, or a URL" ;;
esac
[ -z "$rollback" ] || [ -z "$verb" ] || misused "--rollback and --status exclude each other"
if [ -n "$rollback$verb" ]; then
	[ -z "$binary" ] || misused "${rollback:+--rollback}${verb:+--status} takes no binary"
else
	[ -n "$binary" ] || misused "which binary?"
	case $binary in
	-*) binary=./$binary ;;
	esac
	if [ ! -e "$binary" ]; then
		problem="is not there"
	elif [ ! -f "$binary" ]; then
		problem="is no regular file"
	elif [ ! -s "$binary" ]; then
		problem="is empty"
	elif [ ! -r "$binary" ]; then
		problem="cannot be read"
	elif [ ! -x "$binary" ]; then
		problem="is not executable; chmod +x makes it so"
	else
		problem=''
	fi
	if [ -n "$problem" ]; then
		wrong "$binary $problem; nothing was replaced"
		exit 1
	fi
fi

# Who reads the output may go, and what was begun is still brought to its end.
trap '' PIPE
if [ -n "$hosts" ]; then
	deploy_hosts
	exit
fi
if command -v curl >/dev/null; then
	client=curl
elif command -v wget >/dev/null; then
	client=wget
else
	wrong "neither curl nor wget is here, so health could not be checked; install one of them. Nothing was replaced"
	exit 1
fi
for tool in systemctl flock timeout; do
	command -v "$tool" >/dev/null || {
		wrong "$tool is missing; nothing was replaced"
		exit 1
	}
done
umask 077
trap 'interrupted INT' INT
trap 'interrupted TERM' TERM
trap 'interrupted HUP' HUP
deploy

#!/bin/sh
# deploy.sh --host: sends deploy.sh and the new binary to one host after the other, and runs it there.
# It is started by deploy.sh alone, which has read the flags, and it needs no root.
set -u
wrong() { printf 'deploy: %s\n' "$1" >&2; }
: "${self?this is what deploy.sh --host runs}" "${newline?}" "${unit?}" "${force?}" "${start?}" "${rollback?}"
: "${status?}" "${health?}" "${within?}" "${hosts?}" "${ssh?}" "${sudo?}" "${binary?}"

# What runs on a host first is as short as can be. It gets this script and the binary in one stream, and
# makes sure that both are whole.
# shellcheck disable=SC2016 # expanded over there
remote='umask 077; d=$(mktemp -d "${TMPDIR:-/tmp}/deploy.XXXXXX") || exit 1; trap "rm -rf \"$d\"" EXIT; trap "exit 1" HUP INT TERM
head -c "$1" >"$d/deploy.sh" && cat >"$d/new" && chmod 755 "$d/new" && [ "$(cat "$d/deploy.sh" "$d/new" | sha256sum)" = "$2" ] || {
	echo "deploy: $3: the copy did not arrive whole; nothing was changed" >&2; exit 1; }
if [ "$4" ]; then s="sudo -n"; else s=; fi; n=$5; shift 5; if [ "$n" ]; then set -- "$@" "$d/new"; fi
$s sh "$d/deploy.sh" "$@" </dev/null'

# on HOST BINARY WORDS… runs this script there, with the binary unless it is empty.
on() {
	host=$1 what=$2
	shift 2
	sum=$(cat "$self" ${what:+"$what"} | sha256sum)
	line=''
	for word in sh -c "$remote" deploy "$(stat -L -c %s "$self")" "$sum" "$host" "$sudo" "$what" --unit "$unit" --called "$host" "$@"; do
		line="$line $(printf '%s\n' "$word" | sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/")" # as a shell reads it
	done
	# shellcheck disable=SC2086 # words
	cat "$self" ${what:+"$what"} 2>/dev/null | $ssh -o BatchMode=yes -o ConnectTimeout=10 "$host" "$line"
}

failed='' results='' width=4
while IFS= read -r host; do
	[ ${#host} -le "$width" ] || width=${#host}
	result='not touched'
	if [ -z "$status$failed" ]; then
		echo "$host:"
		on "$host" "$binary" ${health:+--health "$health"} --within "$within" ${force:+--force} ${start:+--start} ${rollback:+--rollback} </dev/null
		code=$?
		[ "$code" != 255 ] || wrong "$host: cannot be reached with $ssh"
		result='done'
		[ "$code" = 0 ] || failed=$host result=failed
	fi
	results="$results$host $result$newline"
done <<END
$hosts
END
[ -n "$status" ] || echo
while read -r host result; do
	runs=$(on "$host" '' --status </dev/null 2>&1) || {
		[ -z "$status" ] || failed=$host
		runs="unknown: ${runs##*"$newline"}"
	}
	if [ -n "$status" ]; then result=''; else result=$(printf '   %-11s' "$result"); fi
	printf "%-${width}s%s   %s\n" "$host" "$result" "${runs##*"$newline"}"
done <<END
${results%"$newline"}
END
[ -n "$status" ] || [ -z "$failed" ] || wrong "stopped at $failed"
[ -z "$failed" ]

# shellcheck shell=bash
# What the integration tests share; source it with the build tree in $build.
#
#   it_cluster [PROGRAM...]     three nodes, healthy, with cairnd, cairnctl and these programs on the PATH
#   expect RC COMMAND...        runs it, fails the test unless it exits with RC; $out and $err are what it printed
#   has TEXT PATTERN            fails unless the text has the (grep -E) pattern
#   eventually SECONDS CMD...   until the command succeeds
#   step WORDS                  says what is tried
#   it_cleanup                  may be defined: runs before the directory $dir goes
#
#   le BYTES VALUE, header LENGTH KIND [ID], hello LANE NAME       bytes of the protocol (docs/protocol.md) on standard output
#
# Sanitizer reports of any process fail the test.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=scripts/cluster.sh
source "$root/scripts/cluster.sh"
it_name=$(basename "$0" .sh)
dir=$(mktemp -d "${TMPDIR:-/tmp}/cairn-$it_name.XXXXXX")
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}log_path=$dir/asan:quarantine_size_mb=16

it_finish() {
    local rv=$?
    cluster_stop
    if [ $rv -eq 0 ] && compgen -G "$dir/asan*" >/dev/null; then
        head -n 60 "$dir"/asan* >&2
        rv=1
    fi
    if declare -F it_cleanup >/dev/null; then
        it_cleanup $rv
    fi
    if [ $rv -ne 0 ] && [ $rv -ne 77 ]; then
        echo "$it_name: FAILED; logs and data are in $dir" >&2
        tail -n 8 "$dir"/n?.log >&2 2>/dev/null || true
    else
        rm -rf "$dir"
    fi
    exit $rv
}
trap it_finish EXIT
trap 'exit 130' INT TERM

step() { printf '%s: %s\n' "$it_name" "$*"; }
fail() {
    echo "$it_name: $*" >&2
    exit 1
}

it_programs() {
    local program path
    mkdir -p "$dir/bin"
    for program in "$@"; do
        # shellcheck disable=SC2154 # build: set by who sources this
        path=$(find "$build" -type f -name "$program" -perm -u+x | head -n 1)
        [ -n "$path" ] || fail "$program is not built in $build"
        ln -sf "$path" "$dir/bin/$program"
    done
    export PATH="$dir/bin:$PATH"
}

it_cluster() { # [program...]
    it_programs cairnd cairnctl "$@"
    cluster_init "$dir" "$dir/bin" 3
    cluster_start
    cluster_wait 60
}

# shellcheck disable=SC2034 # out and err are for the tests
expect() { # rc command...
    local want=$1 rv=0
    shift
    "$@" >"$dir/out" 2>"$dir/err" </dev/null || rv=$?
    out=$(tr -d '\0' <"$dir/out")
    err=$(tr -d '\0' <"$dir/err")
    if [ $rv -ne "$want" ]; then
        printf '%s: "%s" exited with %s instead of %s\n%s\n%s\n' "$it_name" "$*" $rv "$want" "$out" "$err" >&2
        exit 1
    fi
}

has() { # text pattern
    grep -qE -- "$2" <<<"$1" || fail "\"$2\" does not stand in: $1"
}

eventually() { # seconds command...
    local until=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt $until ] || fail "did not happen in time: $*"
        sleep 0.2
    done
}

le() { # bytes value: little-endian
    local i v=$2 text='' byte
    for ((i = 0; i < $1; i++)); do
        printf -v byte '\\x%02x' $((v & 255))
        text+=$byte
        v=$((v >> 8))
    done
    # shellcheck disable=SC2059
    printf "$text"
}
header() { # body-length kind [request-id]
    le 4 "$1" && le 2 "$2" && le 2 0 && le 8 "${3:-1}" && le 4 0 && le 4 0 && le 8 0
}
hello() { # lane name
    header $((26 + 2 + ${#2} + 2)) 1
    le 2 2 && le 2 0 && le 1 "$1" && le 8 0 && le 8 0 && le 1 0 && le 4 0 && le 2 ${#2} && printf '%s' "$2" && le 2 0
}

#!/usr/bin/env bash
# scripts/certs: what it makes verifies, says who it is for, and is kept the second time.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
certs() { scripts/certs "$@"; }

certs "$work" node n1 127.0.0.1 ::1 localhost
certs "$work" user admin
certs --expired "$work" user old
certs "$work-other" ca
trap 'rm -rf "$work" "$work-other"' EXIT

openssl verify -x509_strict -purpose sslserver -CAfile "$work/ca.crt" "$work/n1.crt" >/dev/null || fail "node serves"
openssl verify -x509_strict -purpose sslclient -CAfile "$work/ca.crt" "$work/n1.crt" >/dev/null || fail "node calls"
openssl verify -x509_strict -purpose sslclient -CAfile "$work/ca.crt" "$work/admin.crt" >/dev/null || fail "user calls"
if openssl verify -purpose sslserver -CAfile "$work/ca.crt" "$work/admin.crt" >/dev/null 2>&1; then
    fail "a user's certificate must not serve"
fi
if openssl verify -CAfile "$work/ca.crt" "$work/old.crt" >/dev/null 2>&1; then
    fail "--expired gave a valid certificate"
fi
openssl verify -no_check_time -CAfile "$work/ca.crt" "$work/old.crt" >/dev/null || fail "only the time is wrong with --expired"
if openssl verify -CAfile "$work-other/ca.crt" "$work/n1.crt" >/dev/null 2>&1; then
    fail "another CA must not do"
fi
names=$(openssl x509 -in "$work/n1.crt" -noout -ext subjectAltName)
for name in URI:cairn://node/n1 DNS:n1 DNS:localhost "IP Address:127.0.0.1" "IP Address:0:0:0:0:0:0:0:1"; do
    grep -qF "$name" <<<"$names" || fail "$name is missing in $names"
done
openssl x509 -in "$work/n1.crt" -noout -text | grep -q 'prime256v1' || fail "not P-256"
[ "$(stat -c %a "$work/n1.key" "$work/ca.key" | sort -u)" = 600 ] || fail "keys are not private"

before=$(sha256sum "$work/n1.crt" "$work/ca.crt")
certs "$work" node n1 127.0.0.1
[ "$before" = "$(sha256sum "$work/n1.crt" "$work/ca.crt")" ] || fail "the second run changed something"
certs --force "$work" node n1 127.0.0.1
[ "$before" != "$(sha256sum "$work/n1.crt" "$work/ca.crt")" ] || fail "--force changed nothing"
openssl verify -CAfile "$work/ca.crt" "$work/n1.crt" >/dev/null || fail "--force made a new CA"

for bad in "node N1" "node ../x" "user ca" "user n1" "node n2 bad_name" "node" "robot x" "user a b" "--days 0 user x"; do
    read -r -a words <<<"$bad"
    options=()
    while [[ ${words[0]} == --* ]]; do
        options+=("${words[0]}" "${words[1]}")
        words=("${words[@]:2}")
    done
    if certs "${options[@]}" "$work" "${words[@]}" 2>"$work/message"; then
        fail "\"$bad\" was taken"
    fi
    [ -s "$work/message" ] || fail "\"$bad\" was refused without a word"
done
echo ok

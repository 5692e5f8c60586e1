#!/usr/bin/env bash
# What testssl.sh (https://testssl.sh, Debian's package of that name) finds at a server that was given
# a certificate and nothing else. Exit status: 0 when there is nothing above LOW, else 1.
#
#   tests/run_testssl.sh          what matters, in half a minute: protocols, ciphers, forward secrecy,
#                                 what the server prefers and presents, vulnerabilities
#   tests/run_testssl.sh --all    all that testssl.sh can do, each cipher and each known client too,
#                                 against an elliptic and an RSA certificate; some minutes
#
# PYTHON says which Python has ginsfsm and trustme; the default is that of `make`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-$here/../.venv/bin/python}

# Findings that no default of ours could avoid, with the reason. Everything else above LOW counts.
declare -A excused=(
    [cert_validityPeriod]="the authority of the tests gives certificates of a thousand years"
    [cert_revocation]="a private authority has neither a CRL nor OCSP"
)

# An aborted run has few findings, and they are good: it passes only if these were looked at.
looked_at=(SSLv2 SSLv3 TLS1 TLS1_1 TLS1_2 TLS1_3 cipherlist_NULL cipherlist_aNULL cipherlist_LOW PFS
    cipher_order cert_trust cert_chain_of_trust heartbleed CCS ROBOT secure_renego
    secure_client_renego CRIME_TLS POODLE_SSL SWEET32 FREAK DROWN LOGJAM BEAST LUCKY13 RC4 scanTime)

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
export OPENSSL_CONF=/dev/null HEADER_MAXSLEEP=1 # it waits that long for HTTP, which we do not speak

# scan NAME PORT CA_FILE CHECK...: the findings stand in NAME.json, one on a line each.
scan() {
    local name=$1 port=$2 ca=$3
    shift 3
    # Its own exit status tells of findings and of trouble alike, so only the findings count.
    testssl --quiet --color 0 --warnings off --nodns none --add-ca "$ca" --ip 127.0.0.1 \
        --jsonfile "$work/$name.json" "$@" "localhost:$port" >"$work/$name.txt" 2>&1 || true
}

# judge NAME...: whether the findings of these scans together are fit for us.
judge() {
    local name line id severity bad=0
    local -A seen=()
    for name; do
        while IFS= read -r line; do
            id=${line%%$'\t'*} severity=${line#*$'\t'}
            seen[$id]=$severity
            case $severity in
                OK* | INFO* | LOW* | WARN* | DEBUG*) continue ;;
            esac
            if [[ -v excused[$id] ]]; then
                echo "excused: $id: ${severity//$'\t'/: } (${excused[$id]})"
            else
                echo "FOUND: $id: ${severity//$'\t'/: }"
                bad=1
            fi
        done < <("$python" -c '
import json, sys
for one in json.load(open(sys.argv[1])):
    print(one["id"], one["severity"], one["finding"], sep="\t")' "$work/$name.json")
    done
    for id in "${looked_at[@]}"; do
        if [[ ! -v seen[$id] || ${seen[$id]} == WARN* ]]; then
            echo "MISSED: $id was not looked at: ${seen[$id]-}"
            bad=1
        fi
    done
    if ((bad)); then
        for name; do tail -n 400 "$work/$name.txt"; done
    else
        echo "good: ${#seen[@]} findings"
    fi
    return "$bad"
}

# serve NAME KIND: a server with that kind of certificate; its port and its authority are in `served`.
serve() {
    mkfifo "$work/$1.said"
    "$python" "$here/test_testssl.py" "$2" >"$work/$1.said" 2>"$work/$1.log" &
    read -r -t 20 -a served <"$work/$1.said" || { cat "$work/$1.log" >&2; exit 1; }
}

status=0
if [[ ${1-} == --all ]]; then
    for kind in elliptic rsa; do
        serve "$kind" "$kind"
        echo "== $kind certificate"
        scan "$kind" "${served[@]}" -9
        judge "$kind" || status=1
    done
else
    serve elliptic elliptic
    # Two at a time: it spends most of its time waiting.
    scan one "${served[@]}" -p -s -f -P &
    scan other "${served[@]}" -S -U &
    wait %2 %3
    judge one other || status=1
fi
exit "$status"

#!/usr/bin/env bash
# plan.sh BUILD SOURCE: `meshfold plan` as a user runs it.
set -euo pipefail
meshfold=$1/meshfold source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failures=0
complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

plan=("$meshfold" plan --model tsp-7b --dtype bf16 --recompute block --seq 131072)
cluster=$source/clusters/h100.json

# The table: what fits first, what does not with how much is missing, what can't be with why.
"${plan[@]}" --cluster "$cluster" --mesh single sp=64,exchange=ulysses tsp=8 tp=8 >table || complain 'a plan fails'
for pattern in '^cluster  nodes of 8 H100' '^tsp=8  *fits ' '^single  *short by ' '^sp=64,exchange=ulysses  impossible: '; do
    grep -Eq "$pattern" table || complain "the table has no line like $pattern: $(cat table)"
done
order=$(awk '/^(single|sp=64|tsp=8|tp=8)/ { print $2 }' table | tr '\n' ' ')
[ "$order" = 'fits fits short impossible: ' ] || complain "the order is $order"

# The same as JSON; forward takes less time and memory.
"${plan[@]}" --cluster "$cluster" --mesh tsp=8 --json >train.json || complain '--json fails'
"${plan[@]}" --cluster "$cluster" --mesh tsp=8 --forward --json >forward.json || complain '--forward fails'
figure() { awk -F'[:, ]+' -v name="\"$2\"" '$2 == name { print $3; exit }' "$1"; }
for name in step_s total; do
    awk -v less="$(figure forward.json $name)" -v more="$(figure train.json $name)" \
        'BEGIN { exit !(less > 0 && less < more) }' || complain "$name: forward is not below training"
done

# What train measures is what plan says: peak memory, on threads that borrow.
printf 'x%.0s' {1..4000} >text
"$meshfold" bench --model tiny --seq 96 --mesh tsp=2 --rounds 1 --steps 1 --threads 1 --json real.json >/dev/null ||
    complain 'bench fails'
"$meshfold" plan --model tiny --seq 96 --mesh tsp=2 --borrow --cluster "$cluster" --json >dry.json || complain 'plan fails'
[ "$(figure real.json total)" = "$(figure dry.json total)" ] ||
    complain "peak memory: $(figure real.json total) bytes measured, $(figure dry.json total) planned"

# Mistakes: one line that names them, exit 2.
refuses() {
    local expected=$1 code=0
    shift
    "$meshfold" plan "$@" >out 2>err || code=$?
    [ "$code" = 2 ] || complain "$*: exit $code"
    [ "$(wc -l <err)" = 1 ] && grep -q -- "$expected" err || complain "$*: $(cat err)"
    [ ! -s out ] || complain "$*: prints a table"
}
echo '{"name": "x"}' >broken.json
refuses '--cluster: broken.json: device is missing' --model tiny --cluster broken.json --mesh single
refuses '--cluster: none.json: cannot be read' --model tiny --cluster none.json --mesh single
refuses 'needs --cluster' --model tiny --mesh single
refuses '--mesh' --model tiny --cluster "$cluster"
refuses 'no axis is called "tq"' --model tiny --cluster "$cluster" --mesh tq=2
refuses 'needs --model' --cluster "$cluster" --mesh single

[ "$failures" = 0 ] || exit 1
echo 'plan: all as expected'

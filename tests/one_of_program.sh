#!/usr/bin/env bash
# one_of_program.sh BUILD SOURCE: `--engine one-of` as a user runs it: what is shown, what is refused.
set -u
meshfold=$1/meshfold
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE
failures=0
# run CODE WORD...: meshfold WORD... exits with CODE.
run() {
    local wanted=$1 code=0
    shift
    timeout -k 5 120 "$meshfold" "$@" >output 2>errors || code=$?
    [ $code = "$wanted" ] && return
    echo "FAILED: meshfold $*: exit $code, expected $wanted: $(cat output errors)"
    failures=$((failures + 1))
}
has() { # PATTERN...: the output or the error has lines like these
    local pattern
    for pattern in "$@"; do
        grep -qE -- "$pattern" output errors && continue
        echo "FAILED: no line like $pattern in: $(cat output errors)"
        failures=$((failures + 1))
    done
}

printf 'x%.0s' {1..4000} >text
train=(train --model tiny --data text --seq 64 --threads 1 --steps 3 --engine one-of)
for way in '' --no-borrow; do
    run 0 "${train[@]}" --mesh tsp=4 --rank 2 ${way:+$way}
    has '^step 3/3  loss -  grad -  lr ' '^     2 +[0-9.]+ KiB' '^  rank 2 accounted ' \
        '^rank 2 beside a dry run of it: memory and bytes equal$' \
        '^rank 2 alone: a step takes [0-9.]+ s, of which it computes for [0-9.]+ s; loss -$'
done
run 0 "${train[@]}" --mesh tp=2,sp=2 --json
has '"loss":null,"grad_norm":null' '"engine":"one-of"' '"computing":' '"loss":\{"first":null,"last":null,"eval":null\}'
run 0 bench --engine one-of --model tiny --seq 64 --threads 1 --rounds 2 --steps 1 --rank 1 --mesh tsp=8 tp=8 tp=4,sp=2
has '^measured .* engine one-of$' '^64 tokens: peak memory of the rank that runs$' '  ratio  ' \
    '^  tsp=8 .* 1\.0000 .* equal ' '^  tp=8 .* 1\.0000 .* equal ' '^  tp=4,sp=2 .* 1\.0000 .* equal '

run 2 "${train[@]}" --mesh tsp=4 --out run
has '--out: would save a model' && [ ! -e run ] || failures=$((failures + 1))
run 2 "${train[@]}" --mesh tsp=4 --rank 4
has '--rank 4: --mesh tsp=4 has 4 ranks, the first is 0'
run 2 train --model tiny --data text --seq 64 --mesh tsp=2 --rank 1
has '--rank 1: is of --engine one-of'
run 2 verify --model tiny --mesh single tsp=2 --engine one-of
has '--engine one-of'

[ "$failures" = 0 ] && echo 'one-of: all as it should be'
exit $((failures > 0))

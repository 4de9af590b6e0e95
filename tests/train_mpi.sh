#!/usr/bin/env bash
# train_mpi.sh BUILD SOURCE: training with ranks that are processes: gradients, losses and files are those of ranks that
# are threads, and each way to fail ends the whole job with one line.
set -u
meshfold=$1/meshfold
parity=$1/tests/mpi_parity_ranks
if [ ! -x "$parity" ]; then
    echo "built without MPI: nothing to run"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
source "$2/tests/support/mpi_environment.sh"

failures=0
complain() {
    echo "FAILED: $1"
    tail -n 20 output | sed 's/^/    /'
    failures=$((failures + 1))
}
passes() { # RANKS PROGRAM WORD...
    local ranks=$1
    shift
    timeout -k 5 120 mpiexec -n "$ranks" "$@" >output 2>&1 || complain "$* at $ranks ranks: exit $?"
}

# losses NAME: step and loss or held-out loss, a line each.
losses() { sed -En 's/^\{"step":([0-9]+),"(loss|eval_loss)":([^,}]+).*/\1 \2 \3/p' "$1/metrics.jsonl"; }

# --- gradients --------------------------------------------------------------------------------------------------------
for ranks in 2 4; do
    passes $ranks "$parity" borrowed
    cat output
    passes $ranks "$parity" sent
    cat output
done
passes 3 "$parity" borrowed 2
passes 3 "$parity" sent 2

# --- the program ------------------------------------------------------------------------------------------------------
for i in $(seq 300); do echo "$i green bottles hanging on the wall, $i green bottles"; done >text
train=("$meshfold" train --data text --model tiny --seq 48 --threads 1)
for ranks in 2 3; do
    "${train[@]}" --steps 6 --mesh tsp=$ranks --out "local$ranks" >output 2>&1 || complain "tsp=$ranks fails"
    passes $ranks "${train[@]}" --steps 6 --mesh tsp=$ranks --out "mpi$ranks"
    [ "$(grep -c '^step 6/6' output)" = 1 ] || complain "tsp=$ranks under mpiexec: not one line a step"
    cmp -s <(losses "local$ranks") <(losses "mpi$ranks") || complain "tsp=$ranks: other losses under mpiexec"
    cmp -s "local$ranks/model/model.safetensors" "mpi$ranks/model/model.safetensors" ||
        complain "tsp=$ranks: another model under mpiexec"
    grep -q '"engine": "mpi"' "mpi$ranks/summary.json" || complain "tsp=$ranks: not the mpi engine"
    [ "$(find "mpi$ranks" -type f | wc -l)" = 5 ] || complain "tsp=$ranks: not the five files of a run"
done
passes 2 "${train[@]}" --steps 2 --mesh tsp=2 --init mpi3/model --out on --no-borrow
passes 1 "${train[@]}" --steps 2 --out alone

# --- failures ---------------------------------------------------------------------------------------------------------

# fails RANKS PATTERN WORD...: the job ends by itself, not with success, after one line of meshfold's, which is like
# PATTERN, and nothing was written.
fails() {
    local ranks=$1 pattern=$2 code=0
    shift 2
    timeout -k 5 60 mpiexec -n "$ranks" "${train[@]}" --steps 2 --out out "$@" >output 2>&1 || code=$?
    if [ $code = 0 ] || [ $code = 124 ]; then # 124: timeout had to end it
        complain "$* at $ranks ranks: exit $code"
    elif [ "$(grep -c '^meshfold: ' output)" != 1 ] || ! grep -qE "^meshfold: error: .*$pattern" output; then
        complain "$* at $ranks ranks: not one line like $pattern"
    elif [ -e out ]; then
        complain "$* at $ranks ranks: left --out behind"
    fi
    rm -rf out
}
fails 2 '--mesh tsp=3: is 3 ranks, but mpiexec started 2: give mpiexec -n 3 or a mesh of 2 ranks' --mesh tsp=3
fails 3 '--mesh tsp=2: is 2 ranks, but mpiexec started 3: give mpiexec -n 2 or a mesh of 3 ranks' --mesh tsp=2
fails 2 '--mesh single: is 1 rank, but mpiexec started 2: give mpiexec -n 1 or a mesh of 2 ranks'
fails 3 'unknown flag --sqe: did you mean --seq\?' --mesh tsp=3 --sqe 4
fails 2 '--lr 1x: expected a number' --mesh tsp=2 --lr 1x
fails 2 'rank 0: nosuch/model.safetensors: cannot be opened' --mesh tsp=2 --init nosuch
mkdir broken
head -c 5000 mpi2/model/model.safetensors >broken/model.safetensors
fails 3 'rank 0: broken/model.safetensors: tensor .* has data_offsets' --mesh tsp=3 --init broken
env -u OMPI_COMM_WORLD_SIZE -u PMI_SIZE "${train[@]}" --mesh tsp=2 --engine mpi --out out >output 2>&1 &&
    complain '--engine mpi without mpiexec runs'
grep -q '^meshfold: error: --engine mpi: --mesh tsp=2 needs mpiexec -n 2 before meshfold$' output ||
    complain '--engine mpi without mpiexec: not explained'

# An error of one process: only the second has no data. The program is started through a shell that hides them.
# shellcheck disable=SC2016 # the inner shell's
timeout -k 5 60 mpiexec -n 2 sh -c 'if [ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" = 1 ]; then cd /; fi; exec "$@"' sh \
    "${train[@]}" --steps 2 --mesh tsp=2 --out "$PWD/out" >output 2>&1
code=$?
if [ $code = 0 ] || [ $code = 124 ] || [ -e out ] ||
    ! grep -q '^meshfold: error: --data: text: cannot be read' output; then
    complain "data that one process lacks: exit $code"
fi

# A process that is killed. The shell that becomes rank 1 leaves its process id.
# shellcheck disable=SC2016
timeout -k 5 60 mpiexec -n 3 sh -c \
    'if [ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" = 1 ]; then echo $$ >second; fi; exec "$@"' sh \
    "${train[@]}" --steps 1000000 --mesh tsp=3 --out killed >output 2>&1 &
job=$!
for _ in $(seq 200); do
    [ -s killed/metrics.jsonl ] && break
    sleep 0.1
done
[ -s killed/metrics.jsonl ] || complain 'a long run does not begin'
kill -9 "$(cat second)"
wait $job
code=$?
if [ $code = 0 ] || [ $code = 124 ]; then complain "a killed rank: the job ends with $code"; fi

[ $failures = 0 ] && echo "train_mpi: all as expected"
exit $((failures > 0))

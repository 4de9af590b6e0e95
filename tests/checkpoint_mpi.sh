#!/usr/bin/env bash
# checkpoint_mpi.sh BUILD SOURCE: checkpoints of ranks that are processes: what they save, threads go on from, and the
# other way round; signals that mpiexec passes on; a disk that is full.
set -u
meshfold=$1/meshfold
if [ ! -x "$1/tests/mpi_parity_ranks" ]; then
    echo "built without MPI: nothing to run"
    exit 77
fi
folder=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$folder/disk"; rm -rf "$folder"' EXIT
cd "$folder" || exit 1
source "$2/tests/support/mpi_environment.sh"

failures=0
complain() {
    echo "FAILED: $1"
    tail -n 20 output | sed 's/^/    /'
    failures=$((failures + 1))
}
under_mpi() { # RANKS WORD...
    local ranks=$1
    shift
    timeout -k 5 120 mpiexec -n "$ranks" "$meshfold" train "$@" >output 2>&1 || complain "$* at $ranks processes: exit $?"
}
as_threads() {
    timeout -k 5 120 "$meshfold" train "$@" >output 2>&1 || complain "$*: exit $?"
}

losses() { sed -En 's/^\{"step":([0-9]+),"(loss|eval_loss)":([^,}]+).*/\1 \2 \3/p' "$1/metrics.jsonl"; }
same() {
    cmp -s <(losses "$1") <(losses "$2") ||
        complain "$1 and $2 differ: $(diff <(losses "$1") <(losses "$2") | head -4)"
}
near() {
    paste -d ' ' <(losses "$1") <(losses "$2") |
        awk '{ d = $3 - $6; if ($1 != $4 || $2 != $5 || d * d > 1e-10 * $3 * $3) bad = bad "\n" $0 }
            END { if (NR < 8 || bad) { print "other losses:" bad; exit 1 } }' || complain "losses of $1 and $2"
}

for i in $(seq 300); do echo "$i green bottles hanging on the wall, $i green bottles"; done >text
settings=(--data text --model tiny --seq 48 --batch 2 --threads 1 --eval-every 3 --eval-batches 4)

as_threads "${settings[@]}" --steps 8 --mesh tsp=2 --out whole
under_mpi 2 "${settings[@]}" --steps 8 --mesh tsp=2 --out two --save-every 4
same whole two
[ "$(find two/checkpoints -name 'part-*' | wc -l)" = 4 ] || complain 'not one part a process'
cp -r two threads && cp -r two three && cp -r two three-threads
under_mpi 2 --resume two/checkpoints/step-000004
[ "$(grep -c '^resumed ' output)" = 1 ] || complain 'not one line about where it goes on'
same whole two
as_threads --resume threads/checkpoints/step-000004
same whole threads
as_threads --resume three-threads/checkpoints/step-000004 --mesh tsp=3
near whole three-threads
under_mpi 3 --resume three/checkpoints/step-000004 --mesh tsp=3
near whole three
same three three-threads

# A part that one process looks at is broken: all take the older.
rm -rf two && cp -r threads two
printf x | dd of=two/checkpoints/step-000008/part-00001.safetensors bs=1 seek=9000 conv=notrunc 2>>output
under_mpi 2 --resume two
grep -q '^passed over two/checkpoints/step-000008/part-00001.safetensors: its content is not' output ||
    complain 'a broken part: not said'
grep -q '^resumed    from two/checkpoints/step-000004' output || complain 'a broken part: not the older one'
same whole two

# --- signals ----------------------------------------------------------------------------------------------------------

# stopped_by SIGNAL WORD...: a run that mpiexec passes the signal on to goes on as if it had not been stopped.
stopped_by() {
    local signal=$1
    shift
    as_threads "${settings[@]}" "$@" --mesh tsp=2 --out "long-$signal"
    mpiexec -n 2 "$meshfold" train "${settings[@]}" "$@" --mesh tsp=2 --out "$signal" --save-every 0 >output 2>&1 &
    local job=$!
    for _ in $(seq 1000); do
        [ -s "$signal/metrics.jsonl" ] && [ "$(wc -l <"$signal/metrics.jsonl")" -gt 4 ] && break
        sleep 0.01
    done
    kill "-$signal" $job
    wait $job
    [ ! -e "$signal/summary.json" ] || complain "SIG$signal: the run had ended"
    [ -n "$(find "$signal/checkpoints" -name 'step-*')" ] || complain "SIG$signal to mpiexec: no checkpoint"
    as_threads --resume "$signal"
    same "long-$signal" "$signal"
}
stopped_by USR1 --steps 300
grep -q '^resumed ' output || complain 'SIGUSR1: not resumed'
# After SIGTERM Open MPI 4 reads no output any more, and kills what has not ended in a while: steps of some length, so
# that few lines wait to be read.
export OMPI_MCA_odls_base_sigkill_timeout=2
stopped_by TERM --steps 80 --accumulate 40
unset OMPI_MCA_odls_base_sigkill_timeout

# --- a full disk ------------------------------------------------------------------------------------------------------
mkdir disk
if mount -t tmpfs -o size=2m tmpfs disk 2>/dev/null; then
    mounted=1
    timeout -k 5 60 mpiexec -n 2 "$meshfold" train "${settings[@]}" --steps 8 --mesh tsp=2 --out disk/run --save-every 2 \
        >output 2>&1
    code=$?
    if [ $code = 0 ] || [ $code = 124 ] ||
        ! grep -q '^meshfold: error: .*disk/run/checkpoints/.*No space left on device' output; then
        complain "a full disk: exit $code"
    fi
    [ -e disk/run/checkpoints/step-000002/manifest.json ] || complain 'a full disk: the last checkpoint is gone'
    mount -o remount,size=16m disk
    under_mpi 2 --resume disk/run
    same whole disk/run
fi

[ $failures = 0 ] && echo "checkpoint_mpi: all as expected"
exit $((failures > 0))

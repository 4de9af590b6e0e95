#!/usr/bin/env bash
# checkpoint.sh BUILD SOURCE: checkpoints as a user meets them: a run that is stopped, killed or runs out of disk goes on
# with the losses that it would have had; what --resume takes, says and refuses.
set -u
meshfold=$1/meshfold
folder=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$folder/disk"; rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE

failures=0
complain() {
    echo "FAILED: $*"
    sed 's/^/    /' output | tail -n 20
    failures=$((failures + 1))
}

# ends CODE PATTERN WORD...: meshfold train WORD... exits with CODE and has a line like PATTERN.
ends() {
    local wanted=$1 pattern=$2 code=0
    shift 2
    timeout -k 5 120 "$meshfold" train "$@" >output 2>&1 || code=$?
    if [ $code != "$wanted" ]; then
        complain "train $*: exit $code, expected $wanted"
    elif ! grep -qE -- "$pattern" output; then
        complain "train $*: no line like: $pattern"
    fi
}
refuses() { # PATTERN WORD...: with one line, before anything is printed or written
    local before after
    before=$(find . -path ./output -prune -o -type f -printf '%p %s %T@\n' | sort)
    ends 2 "^meshfold: error: $1" "${@:2}"
    after=$(find . -path ./output -prune -o -type f -printf '%p %s %T@\n' | sort)
    [ "$(wc -l <output)" = 1 ] || complain "train ${*:2}: more than one line"
    [ "$before" = "$after" ] || complain "train ${*:2}: changes files"
}

# value FILE KEY...: a value out of a JSON file; nothing when it is not there.
value() {
    local file=$1 out
    shift
    echo "file(READ \"$PWD/$file\" text)
string(JSON value GET \"\${text}\" $*)
message(\"\${value}\")" >value.cmake
    out=$(cmake -P value.cmake 2>&1) && echo "$out"
}

# losses NAME: step, loss or held-out loss, and what else must be the same, a line each.
losses() {
    sed -En 's/^\{"step":([0-9]+),"loss":([^,]+),("grad_norm":[^,]+,"lr":[^,]+,"tokens":[0-9]+),.*/\1 \2 \3/p
        s/^\{"step":([0-9]+),"eval_loss":([^,}]+).*/\1 eval \2/p' "$1/metrics.jsonl"
}
same_runs() { # A B: losses, model, and what the summary says of the whole run
    cmp -s <(losses "$1") <(losses "$2") ||
        complain "$1 and $2 differ: $(diff <(losses "$1") <(losses "$2") | head -4)"
    cmp -s "$1/model/model.safetensors" "$2/model/model.safetensors" || complain "$1 and $2 have different models"
    local key
    for key in 'loss first' 'loss last' 'loss eval' steps skipped; do
        # shellcheck disable=SC2086 # a key is some words
        [ -n "$(value $1/summary.json $key)" ] && [ "$(value $1/summary.json $key)" = "$(value $2/summary.json $key)" ] ||
            complain "$1 and $2: other $key in the summary"
    done
}
checkpoints() { find "$1/checkpoints" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tr '\n' ' '; }

for i in $(seq 300); do echo "$i bottles of beer on the wall, $i bottles of beer"; done >text
settings=(--data text --model tiny --seq 48 --batch 2 --threads 1 --lr 3e-3 --eval-every 5)

# --- a run's checkpoints ----------------------------------------------------------------------------------------------
ends 0 '^loss ' "${settings[@]}" --steps 12 --mesh tsp=2 --out whole
ends 0 '^saved run/checkpoints/step-000004: [0-9.]+ MiB in [0-9.]+ m?s$' "${settings[@]}" --steps 12 --mesh tsp=2 \
    --out run --save-every 4 --keep 3
same_runs whole run
[ "$(checkpoints run)" = 'step-000004 step-000008 step-000012 ' ] || complain "run has $(checkpoints run)"
[ "$(cd run/checkpoints/step-000008 && echo *)" = \
    'config.json manifest.json part-00000.safetensors part-00001.safetensors' ] || complain 'files of a checkpoint'
[ "$(value run/checkpoints/step-000008/manifest.json run mesh) $(value run/checkpoints/step-000008/manifest.json \
    progress step)" = 'tsp=2 8' ] || complain 'a manifest does not say what it is of'
if command -v xxhsum >/dev/null && xxhsum -H3 text >/dev/null 2>&1; then
    xxhsum -H3 run/checkpoints/step-000008/part-00001.safetensors |
        grep -qi "$(value run/checkpoints/step-000008/manifest.json parts 1 xxh3)" || complain 'xxhsum disagrees'
fi

# --- going on, from where it can --------------------------------------------------------------------------------------
cp -r run damaged
cp -r run finished
rm -rf run/checkpoints/step-000012
ends 0 '^resumed +from run/checkpoints/step-000008, after step 8$' --resume run
same_runs whole run
truncate -s -1 damaged/checkpoints/step-000012/part-00001.safetensors
rm damaged/checkpoints/step-000008/manifest.json
mkdir damaged/checkpoints/.step-000020.partial
echo '{"step":11,"loss":1' >>damaged/metrics.jsonl # killed while it wrote
ends 0 '^resumed +from damaged/checkpoints/step-000004, after step 4$' --resume damaged/
grep -qE '^passed over damaged/checkpoints/step-000012/part-00001.safetensors: has [0-9]+ bytes, but ' output &&
    grep -qE '^passed over damaged/checkpoints/step-000008/manifest.json: cannot be opened' output ||
    complain 'not told what was passed over'
same_runs whole damaged
[ "$(checkpoints damaged)" = 'step-000004 step-000008 step-000008.set-aside-1 step-000012 step-000012.set-aside-1 ' ] ||
    complain "damaged has $(checkpoints damaged)"
ends 0 '^resumed +from finished/checkpoints/step-000012, after step 12$' --resume finished
same_runs whole finished
ends 0 '^step 15/16 ' --resume finished --steps 16 --json=false --mesh tp=2,sp=2
[ "$(value finished/summary.json steps) $(grep -c '"loss"' finished/metrics.jsonl)" = '16 16' ] ||
    complain 'more steps: the summary or the metrics are not of the whole'
[ "$(value finished/resolved.json steps) $(value finished/resolved.json mesh)" = '16 tp=2,sp=2' ] ||
    complain 'resolved.json does not have the new settings'
[ -z "$(value finished/resolved.json resume)" ] || complain 'resolved.json would resume'
cp -r run whole2
ends 0 '^resumed +from whole2/checkpoints/step-000004, after step 4$' --resume whole2/checkpoints/step-000004 \
    --out elsewhere
cmp -s <(losses whole | awk '$1 > 4') <(losses elsewhere) || complain 'elsewhere: other losses'
[ "$(checkpoints whole2)" = "$(checkpoints run)" ] || complain 'a run that goes on elsewhere changes where it was'
ends 0 '"resumed_from":"whole2/checkpoints/step-000008"' --resume whole2/checkpoints/step-000008 --json
grep -qE '^\{"step":12,"checkpoint":"whole2/checkpoints/step-000012","checkpoint_bytes":[0-9]+,"checkpoint_s":' output ||
    complain '--json does not tell of checkpoints'
grep -qvE '^\{.*\}$' output && complain '--json prints other things than JSON'
same_runs whole whole2

# --- on any mesh ------------------------------------------------------------------------------------------------------
for mesh in single tsp=3 'dp=2,tsp=2 --batch 1' tp=4 sp=3,stream=gather; do
    rm -rf other
    cp -r run other
    read -ra words <<<"$mesh"
    ends 0 '^resumed +from other/checkpoints/step-000004' --resume other/checkpoints/step-000004 --mesh "${words[@]}"
    paste -d ' ' <(losses whole | cut -d ' ' -f -2) <(losses other | cut -d ' ' -f -2) |
        awk '$2 != "eval" { d = $2 - $4; if ($1 != $3 || d * d > 1e-10 * $2 * $2) bad = bad "\n" $0; n++ }
            END { if (n != 12 || bad) { print "other losses:" bad; exit 1 } }' || complain "going on at $mesh"
done

# --- what is refused --------------------------------------------------------------------------------------------------
refuses '--save-every 3 needs --out' "${settings[@]}" --save-every 3
refuses '--keep 1: expected an integer from 2 to ' "${settings[@]}" --keep 1
refuses '--resume nosuch: is not there$' --resume nosuch
refuses '--resume whole: no whole checkpoint; ' --resume whole
mkdir -p hollow/checkpoints
refuses '--resume hollow/checkpoints: no whole checkpoint; ' --resume hollow
refuses '--seq 64: a run that is resumed keeps what it has: 48$' --resume run --seq 64
refuses '--model "demo": a run that is resumed keeps what it has: "tiny"$' --resume run --model demo
refuses '--init "run/model": a run that is resumed keeps what it has: none$' --resume run --init run/model
refuses '--seed 2: a run that is resumed keeps what it has: 1$' --resume run --seed 2
refuses '--dtype "bf16": a run that is resumed keeps what it has: "f32"$' --resume run --dtype bf16
refuses '--data: is another text than the checkpoint' --resume run --data run/metrics.jsonl
refuses 'a step would have 4 sequences \(--batch 2, --accumulate 1, 2 dp replicas\), but .* has 2' \
    --resume run --mesh dp=2
refuses '--steps 11: the checkpoint has 12 steps behind it' --resume run --steps 11
refuses '--out whole: exists and is not empty' --resume run --out whole
cp text copied-text
ends 0 '^resumed ' --resume run --data copied-text --model tiny --seq 48 # the same, told again

# --- asked to stop ----------------------------------------------------------------------------------------------------
ends 0 '^loss ' "${settings[@]}" --steps 400 --mesh tsp=2 --out long
for signal in TERM INT USR1; do
    rm -rf asked
    "$meshfold" train "${settings[@]}" --steps 400 --mesh tsp=2 --out asked --save-every 0 >output 2>&1 &
    pid=$!
    for _ in $(seq 1000); do
        [ -s asked/metrics.jsonl ] && [ "$(wc -l <asked/metrics.jsonl)" -gt 20 ] && break
        sleep 0.01
    done
    kill -$signal $pid
    wait $pid
    code=$?
    [ $code = 0 ] || complain "SIG$signal: exit $code"
    stopped=$(sed -En 's/^stopped after step ([0-9]+), as asked; to go on: meshfold train --resume asked$/\1/p' output)
    [ -n "$stopped" ] && [ "$stopped" -lt 400 ] || complain "SIG$signal: not stopped, or not told how to go on"
    [ ! -e asked/summary.json ] || complain "SIG$signal: a summary of a run that has not ended"
    ends 0 "^resumed +from asked/checkpoints/step-0*$stopped, after step $stopped$" --resume asked
    same_runs long asked
done
"$meshfold" train --data text --model demo --seq 1500 --batch 4 --threads 1 --steps 50 --out slow --save-every 0 \
    >output 2>&1 &
pid=$!
for _ in $(seq 1000); do
    [ -e slow/metrics.jsonl ] && break
    sleep 0.01
done
kill -TERM $pid
sleep 0.2
kill -TERM $pid
{ wait $pid; } 2>/dev/null
code=$?
[ $code = 143 ] || complain "a second SIGTERM: exit $code"

# --- killed -----------------------------------------------------------------------------------------------------------
bash "$2/tests/soak/kill_resume.sh" "$1" 5 >output 2>&1 || complain 'killed and resumed'

# --- a disk that is full, a folder that can't be written --------------------------------------------------------------
rm -rf full
ends 0 '^loss ' "${settings[@]}" --steps 4 --mesh tsp=2 --out full --save-every 4
if (ulimit -f 200 && timeout 60 "$meshfold" train --resume full --steps 12 >output 2>&1); then
    complain 'a full disk: the run ends well'
fi
(ulimit -f 200 && timeout 60 "$meshfold" train --resume full --steps 12 >output 2>&1)
code=$?
[ $code = 1 ] && grep -qE '^meshfold: error: .*full/checkpoints/.step-000008.partial/part-0000[01].safetensors: cannot be' \
    output || complain "a full disk: exit $code"
[ "$(checkpoints full)" = 'step-000004 ' ] || complain "a full disk leaves $(checkpoints full)"
ends 0 '^resumed +from full/checkpoints/step-000004' --resume full --steps 12
mkdir disk
if mount -t tmpfs -o size=2m tmpfs disk 2>/dev/null; then
    mounted=1
    "$meshfold" train "${settings[@]}" --steps 12 --mesh tsp=2 --out disk/run --save-every 2 >output 2>&1
    code=$?
    [ $code = 1 ] && grep -q '^meshfold: error: .*disk/run/checkpoints/.*No space left on device' output ||
        complain "a disk of 2 MiB: exit $code"
    [ "$(checkpoints disk/run)" = 'step-000002 ' ] || complain "a disk of 2 MiB has $(checkpoints disk/run)"
    mount -o remount,size=16m disk
    ends 0 '^resumed +from disk/run/checkpoints/step-000002' --resume disk/run
    same_runs whole disk/run
    umount disk && mounted=
fi
if [ "$(id -u)" != 0 ]; then
    chmod a-w run/checkpoints
    ends 1 'run/checkpoints/.*cannot be' --resume run --steps 14
    chmod u+w run/checkpoints
fi

# --- a new run in an old folder ---------------------------------------------------------------------------------------
ends 0 '^wrote run ' "${settings[@]}" --steps 2 --out run --force
[ ! -e run/checkpoints ] || complain "--force leaves $(checkpoints run)"

[ $failures = 0 ] && echo "checkpoint: all as expected"
exit $((failures > 0))

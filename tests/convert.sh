#!/usr/bin/env bash
# convert.sh BUILD SOURCE: `meshfold convert` as a user meets it: a run's checkpoints into the folder that the run itself
# writes, whatever the mesh; models into checkpoints that runs begin with; what goes along, and what is refused.
set -u
meshfold=$1/meshfold
folder=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$folder/disk"; rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export OMP_NUM_THREADS=1 MESHFOLD_MACHINE=$folder/none.json
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE

failures=0
complain() {
    echo "FAILED: $*"
    sed 's/^/    /' output | tail -n 20
    failures=$((failures + 1))
}
# ends CODE PATTERN WORD...: meshfold WORD... exits with CODE and has a line like PATTERN.
ends() {
    local wanted=$1 pattern=$2 code=0
    shift 2
    timeout -k 5 120 "$meshfold" "$@" >output 2>&1 || code=$?
    [ "$code" = "$wanted" ] || complain "$*: exit $code, expected $wanted"
    grep -qE -- "$pattern" output || complain "$*: no line like: $pattern"
}
leaves_nothing() {
    if [ -e no ] || [ -e no.partial ]; then complain "$1: leaves $(echo no*)"; fi
}
refuses() { # PATTERN WORD...: in one line, and nothing is written
    ends 2 "^meshfold: error: $1" convert "${@:2}"
    [ "$(wc -l <output)" = 1 ] || complain "${*:2}: more than one line"
    leaves_nothing "${*:2}"
}
same() { cmp -s "$1" "$2" || complain "$1 and $2 differ"; }
losses() { sed -En 's/^\{"step":([0-9]+),"loss":([^,]+),("grad_norm":[^,]+),.*/\1 \2 \3/p' "$1/metrics.jsonl"; }

for i in $(seq 300); do echo "$i bottles of beer on the wall, $i bottles of beer"; done >text
settings=(--data text --seq 48 --batch 2 --threads 1 --lr 3e-3 --steps 4)

# --- checkpoints into model folders -----------------------------------------------------------------------------------
n=0
for words in 'single' 'tsp=3 --dtype bf16' 'tp=3' 'sp=3,stream=gather' 'dp=2,tsp=2 --dtype bf16'; do
    n=$((n + 1))
    read -ra mesh <<<"$words"
    ends 0 '^loss ' train "${settings[@]}" --model tiny --mesh "${mesh[@]}" --out "run$n" --save-every 2
    ends 0 "^model$n: [0-9]+ tensors, .* in 1 file, from run$n/checkpoints/step-000004 in " \
        convert --from "run$n" --out "model$n"
    same "run$n/model/model.safetensors" "model$n/model.safetensors"
    same "run$n/model/config.json" "model$n/config.json"
done
ends 0 'from run1/checkpoints/step-000002 in ' convert --from run1/checkpoints/step-000002 --out two
cmp -s two/model.safetensors model1/model.safetensors && complain 'step 2 is step 4'
ends 0 'from run1/checkpoints/step-000004 in ' convert --from run1/checkpoints --out folder-of-them --dtype f32
same folder-of-them/model.safetensors model1/model.safetensors
ends 0 '^loss ' eval --init model1 --data text --seq 48 --threads 1
loss=$(awk '/^loss/ { print $2 }' output)
ends 0 'in [2-9] files, from ' convert --from run1 --out half --dtype f16 --shard-size 100KB
ends 0 '^loss ' eval --init half --data text --seq 48 --threads 1
awk -v a="$loss" '/^loss/ { d = ($2 - a) / a; exit !(d < 1e-3 && d > -1e-3) }' output || complain "in f16, not $loss"
cp -r run2 hurt
truncate -s -1 hurt/checkpoints/step-000004/part-00001.safetensors
ends 0 '^passed over hurt/checkpoints/step-000004/part-00001.safetensors: has ' convert --from hurt --out hurt-model
ends 0 '' convert --from run2/checkpoints/step-000002 --out hurt-expected
same hurt-model/model.safetensors hurt-expected/model.safetensors

# --- models into checkpoints, and on ----------------------------------------------------------------------------------
cp -r model2 init # in bf16
echo '{"a tokenizer": 1}' >init/tokenizer.json
sed -i 's/"eos_token_id": null/"eos_token_id": 7/' init/config.json
ends 0 '^start: [0-9]+ tensors, .* in [2-9] files, from init/model.safetensors in ' convert --from init --out start \
    --format checkpoint --shard-size 100KB
ends 0 '"absent": null' convert --from start --out back --json
for file in model.safetensors config.json tokenizer.json; do same "back/$file" "init/$file"; done
mv init moved
ends 0 "^without a tokenizer: $folder/init, .* is gone$" convert --from start --out back-alone
mv moved init

ends 0 '^loss ' train "${settings[@]}" --init init --out straight
ends 0 '^resumed +from start, after step 0$' train --resume start "${settings[@]}" --out resumed
cmp -s <(losses straight) <(losses resumed) || complain "a run that begins with a checkpoint has other losses"
[ "$(losses resumed | wc -l)" = 4 ] || complain "it has $(losses resumed)"
for file in model.safetensors config.json tokenizer.json; do same "straight/model/$file" "resumed/model/$file"; done
ends 0 '^loss ' train --resume start "${settings[@]}" --mesh tp=2,sp=2 --dtype bf16 --seed 5 --out other
mkdir -p place/checkpoints
ends 0 '^place' convert --from init --out place/checkpoints/step-000000 --format checkpoint
ends 0 '^resumed +from place/checkpoints/step-000000, after step 0$' train --resume place "${settings[@]}" --save-every 2
cmp -s <(losses straight) <(losses place) || complain "a run that begins in its place has other losses"
ends 2 '--seq 64: a run that is resumed keeps what it has: 48$' train --resume place --seq 64
ends 0 '^step 5/5 ' train --resume place --steps 5 --mesh tsp=2
ends 0 "from place/checkpoints/step-000005 in " convert --from place --out placed
for file in config.json tokenizer.json; do same "place/model/$file" "placed/$file"; done
ends 2 'meshfold train needs --data' train --resume start
ends 2 '--model "tiny": a run that is resumed keeps what it has: none$' train --resume start --data text --model tiny
ends 2 '--init "model1": a run that is resumed keeps what it has: "' train --resume start --data text --init model1

# --- what is refused --------------------------------------------------------------------------------------------------
refuses 'meshfold convert needs --from'
refuses 'meshfold convert needs --out' --from init
refuses '--dtype f8: expected one of f32\|bf16\|f16$' --from init --out no --dtype f8
refuses '--format gguf: expected one of hf\|checkpoint$' --from init --out no --format gguf
refuses '--dtype bf16: a checkpoint.s weights are f32' --from init --out no --format checkpoint --dtype bf16
for size in 5 GB 0GB -1GB 5gb 1e3GB 5TB 1.2.3GB 9999999999999GB; do
    refuses "--shard-size $size: expected a number and KB" --from init --out no --shard-size="$size"
done
refuses 'nowhere: has neither a model' --from nowhere --out no
refuses 'text: cannot be read: Not a directory' --from text --out no
refuses 'start: is a checkpoint already' --from start --out no --format checkpoint
refuses 'init: is not empty' --from init --out init
refuses 'text: is there, and is no folder' --from init --out text
ends 2 'text/no: cannot be made' convert --from init --out text/no
cp -r init damaged
truncate -s -1 damaged/model.safetensors
refuses 'damaged/model.safetensors: tensor .* has data_offsets' --from damaged --out no
rm damaged/model.safetensors
refuses 'damaged: has neither a model' --from damaged --out no
cp -r start flipped
printf '\377' | dd of=flipped/part-00000.safetensors bs=1 seek=5000 conv=notrunc status=none
ends 2 '^meshfold: error: flipped: no whole checkpoint; .*part-00000.safetensors: its content is not what was written' \
    convert --from flipped --out no
leaves_nothing 'a flipped bit'

# --- a disk that is full ----------------------------------------------------------------------------------------------
mkdir disk
if mount -t tmpfs -o size=1m none disk 2>/dev/null; then
    mounted=yes
    for words in '--dtype f32' '--format checkpoint'; do
        read -ra more <<<"$words"
        dd if=/dev/zero of=disk/other bs=1k count=600 status=none
        ends 1 '^meshfold: error: disk/a.partial/.*: cannot be written: No space left' convert --from init --out disk/a \
            "${more[@]}"
        [ "$(ls disk)" = other ] || complain "a full disk has $(ls disk)"
        rm disk/other
        ends 0 '^disk/a: ' convert --from init --out disk/a "${more[@]}"
        rm -r disk/a
    done
fi

[ "$failures" = 0 ] && echo 'convert: all as it should be'
exit $((failures > 0))

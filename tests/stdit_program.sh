#!/usr/bin/env bash
# stdit_program.sh BUILD SOURCE: models of videos as a user meets them: trained, stopped and resumed, verified, measured,
# converted; what every command says to the wrong kind of model, and to videos that are none.
set -u
meshfold=$1/meshfold
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export OMP_NUM_THREADS=1
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
    if [ $code != "$wanted" ]; then
        complain "$*: exit $code, expected $wanted"
    elif ! grep -qE -- "$pattern" output; then
        complain "$*: no line like: $pattern"
    fi
}
refuses() { # PATTERN WORD...: with one line
    ends 2 "^meshfold: error: $1" "${@:2}"
    [ "$(wc -l <output)" = 1 ] || complain "${*:2}: more than one line"
}

# losses NAME: step, loss or held-out loss, a line each.
losses() {
    sed -En 's/^\{"step":([0-9]+),"loss":([^,]+),.*/\1 \2/p
        s/^\{"step":([0-9]+),"eval_loss":([^,}]+).*/\1 eval \2/p' "$1/metrics.jsonl"
}

# config NAME [OLD NEW]...: a config.json of a small model, with fields replaced.
config() {
    local file=$1 text='{"model_type": "stdit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "sample_frames": 3, "sample_height": 8, "sample_width": 20, "in_channels": 3,
        "patch_size": 4}'
    shift
    while [ $# -gt 0 ]; do
        text=${text/"$1"/"$2"}
        shift 2
    done
    echo "$text" >"$file"
}

config small.json
for seed in 1 2; do
    "$meshfold" shapes --out shapes-$seed.npy --count 4 --frames 5 --size 40x24 --seed $seed >output 2>&1 || complain shapes
done
mv shapes-1.npy shapes.npy
for i in $(seq 60); do echo "$i bottles of beer on the wall"; done >text
small=(--model small.json --threads 1)
tiny=(--model tiny --seq 16 --threads 1)
run=("${small[@]}" --data shapes.npy --batch 2 --eval-every 2)

# --- trained, stopped, resumed ----------------------------------------------------------------------------------------
ends 0 '^wrote whole ' train "${run[@]}" --steps 4 --mesh dsp=2 --out whole
ends 0 '^saved run/checkpoints/step-000002: ' train "${run[@]}" --steps 4 --mesh dsp=2 --out run --save-every 2
cmp -s <(losses whole) <(losses run) || complain 'saving changes losses'
ends 0 '^wrote settings ' train --config whole/resolved.json --out settings
cmp -s whole/model/model.safetensors settings/model/model.safetensors || complain 'resolved.json gives another model'
rm -rf run/checkpoints/step-000004
cp -r run again
ends 0 '^resumed +from again/checkpoints/step-000002, after step 2$' train --resume again
cmp -s <(losses whole) <(losses again) || complain 'a run that goes on has other losses'
cmp -s whole/model/model.safetensors again/model/model.safetensors || complain 'a run that goes on has another model'
mkdir elsewhere
cp shapes.npy elsewhere
for mesh in single dsp=3,stream=ring sp=2,exchange=ring tp=2 tsp=2 'dp=2,dsp=2 --batch 1'; do
    rm -rf other
    cp -r run other
    read -ra words <<<"$mesh"
    ends 0 '^resumed ' train --resume other --data elsewhere --mesh "${words[@]}"
    paste -d ' ' <(losses whole | sed 's/eval //') <(losses other | sed 's/eval //') |
        awk '{ d = $2 - $4; if ($1 != $3 || d * d > 1e-10 * $2 * $2) bad = bad "\n" $0; n++ }
            END { if (n != 6 || bad) { print "other losses:" bad; exit 1 } }' || complain "going on at $mesh"
done
refuses '--data: are other videos, or clips of another grid, than ' train --resume run --data shapes-2.npy
refuses '--data: are other videos, or clips of another grid, than ' train --resume run --data shapes.npy shapes-2.npy
refuses '--data: are other videos, or clips of another grid, than ' train --resume run --grid 5x2
refuses '--frames, --grid: clips of 20 patches: the checkpoint.s run has 30, and keeps it$' train --resume run --frames 2
refuses '--seq: is of texts; a clip has --frames and --grid$' train --resume run --seq 30

# --- verified, measured, converted ------------------------------------------------------------------------------------
# More ranks than frames, and than places of a frame.
ends 0 '^4 of 4 layouts agree with single' verify "${small[@]}" --frames 2 --grid 1x3 --mesh single dsp=5 \
    dsp=5,stream=ring sp=4,exchange=ring tsp=4
# scatter is for the mesh that has a use for it.
ends 0 '^2 of 2 layouts agree with single' verify "${small[@]}" --reduction scatter --mesh single tp=2 tp=2,dsp=2
ends 0 '^  dsp=2 .* equal ' bench "${small[@]}" --mesh single dsp=2 --frames 2,3 --grid 2x3 --steps 1 --rounds 1
ends 0 '^half: 25 tensors' convert --from run/model --out half --dtype bf16
ends 0 '^wrote from-half ' train "${run[@]}" --init half --steps 1 --mesh dsp=2,stream=ring --out from-half
ends 0 '^begun: 25 tensors' convert --from run/model --out begun --format checkpoint
ends 0 '^wrote from-begun ' train --resume begun --data shapes.npy --steps 1 --frames 2 --out from-begun

# --- the wrong kind of model ------------------------------------------------------------------------------------------
refuses '--init run/model: is a model of videos; meshfold eval reads texts$' eval --init run/model --data text
refuses '--tokenizer: run/model/tokenizer.json: cannot be opened' tokenize --tokenizer run/model --data text --out ids
refuses '--prompt: is of texts; this model makes clips$' generate --model run/model --prompt hi
refuses '--clips: is of clips; this model makes texts$' generate --model tiny --clips 2
refuses '--seq: is of texts; a clip has --frames and --grid$' train "${run[@]}" --seq 30
refuses '--seq: is of texts; a clip has --frames and --grid$' verify "${small[@]}" --mesh single dsp=2 --seq 30
refuses '--seq: is of texts; a clip has --frames and --grid$' bench "${small[@]}" --mesh dsp=2 --seq 30
refuses '--packed: is of texts; a clip has no documents$' train "${run[@]}" --packed
refuses '--packed: needs --data' verify "${small[@]}" --mesh single dsp=2 --packed
refuses '--data: a model of videos is verified on random clips$' verify "${small[@]}" --mesh single dsp=2 --data shapes.npy
refuses '--frames: is of clips, but this model reads texts$' train "${tiny[@]}" --data text --frames 3
refuses '--grid: is of clips, but this model reads texts$' verify "${tiny[@]}" --mesh single tp=2 --grid 2x2
refuses '--frames: is of clips, but this model reads texts$' bench "${tiny[@]}" --mesh single --frames 3
refuses 'axis dsp switches between the dimensions of a video; a text has one' train "${tiny[@]}" --data text --mesh dsp=2
refuses '--mesh dsp=2: axis dsp switches between ' verify "${tiny[@]}" --mesh single dsp=2
refuses '--mesh dsp=2,exchange=ring: exchange=ring can.t be on dsp' verify "${small[@]}" --mesh single dsp=2,exchange=ring
refuses '--mesh dsp=2,sp=2: dsp cuts all tokens by itself' verify "${small[@]}" --mesh single dsp=2,sp=2
refuses '--mesh tp=2,dsp=2,reduction=scatter: reduction=scatter ' verify "${small[@]}" --mesh single \
    tp=2,dsp=2,reduction=scatter
refuses '--mesh dsp=2,mlp-stream=ring: attention-stream and mlp-stream are both resident or both not$' verify \
    "${small[@]}" --mesh single dsp=2,mlp-stream=ring
config odd.json '"num_hidden_layers": 2' '"num_hidden_layers": 3'
refuses '--model: odd.json: num_hidden_layers is 3; it must be even' train --model odd.json --data shapes.npy
config huge.json '"sample_frames": 3' '"sample_frames": 1048576' '"sample_width": 20' '"sample_width": 1048576'
refuses 'clips of 1048576 frames of 2x262144 patches: more than ' verify --model huge.json --mesh single tp=2

# --- videos that are none ---------------------------------------------------------------------------------------------
# stream NAME WIDTH HEIGHT FRAMES: a black .y4m of one channel.
stream() {
    printf 'YUV4MPEG2 W%d H%d F1:1 Cmono\n' "$2" "$3" >"$1"
    for _ in $(seq "$4"); do
        echo FRAME
        head -c $(($2 * $3)) /dev/zero
    done >>"$1"
}
video() { # PATTERN PATH...: refused as --data
    local pattern=$1
    shift
    refuses "--data: $pattern" train "${small[@]}" --steps 1 --data "$@"
}
stream none.y4m 20 8 0
stream one.y4m 20 8 1
stream narrow.y4m 19 8 3
stream mono.y4m 20 8 3
head -c 1000 shapes.npy >short.npy
{ printf 'X' && tail -c +2 shapes.npy; } >magic.npy
mkdir empty
video 'none.y4m: has no frames$' none.y4m
video 'one.y4m has 1 frame of 20x8; 3 frames of 20x8 are needed$' one.y4m
video 'narrow.y4m has 3 frames of 19x8; 3 frames of 20x8 are needed$' narrow.y4m
video 'clips have 1 channel' mono.y4m
video 'shapes.npy has 3 channels, mono.y4m has 1; all must have the same$' mono.y4m shapes.npy
video 'shapes.npy has 5 frames of 40x24; 6 frames of 20x8 are needed$' shapes.npy --frames 6
video 'shapes.npy has 5 frames of 40x24; 3 frames of 20x28 are needed$' shapes.npy --grid 7x5
video 'short.npy: has [0-9]+ bytes of values; its header tells of 57600$' short.npy
video 'magic.npy: is no .npy file' magic.npy
video 'nosuch.npy: cannot be read: No such file' nosuch.npy
video 'text: is named neither .npy nor .y4m$' text
video 'no video in empty: ' empty
refuses '--grid 4: expected rows and columns of patches' train "${run[@]}" --grid 4

[ $failures = 0 ] && echo "stdit_program: all as expected"
exit $((failures > 0))

#!/usr/bin/env bash
# cuda_program.sh BUILD SOURCE: meshfold on a GPU as a user runs it, here on an emulated one, whose memory the host can't
# touch: every layout agrees with one rank of the CPU, runs go on from their checkpoints, and what they learnt is used.
set -u
meshfold=$1/meshfold
emulated=$1/libmeshfold_cuda_emulated.so
[ -e "$emulated" ] || exit 77
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export OMP_NUM_THREADS=1 MESHFOLD_CUDA_MODULE=$emulated
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE

failures=0
complain() {
    echo "FAILED: $*"
    sed 's/^/    /' output errors
    failures=$((failures + 1))
}

# run CODE WORD...: meshfold WORD... exits with CODE.
run() {
    local wanted=$1 code=0
    shift
    timeout -k 5 300 "$meshfold" "$@" >output 2>errors || code=$?
    [ $code = "$wanted" ] || complain "meshfold $*: exit $code, expected $wanted"
}
has() { # PATTERN...: the output, or what was said beside it, has lines like these
    local pattern
    for pattern in "$@"; do grep -qE -- "$pattern" output errors || complain "no line like $pattern"; done
}

# same_numbers A B: of two files of f32, to a hundredth.
same_numbers() {
    paste -d " " <(tail -c 4000 "$1" | od -An -v -w4 -tf4) <(tail -c 4000 "$2" | od -An -v -w4 -tf4) |
        awk '{d = $1 - $2; if (d * d > 1e-4) exit 1}' || complain "$1 and $2 differ"
}

cat >config.json <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2,
 "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16, "intermediate_size": 80, "vocab_size": 256}
END
cat >video.json <<END
{"model_type": "stdit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
 "sample_frames": 3, "sample_height": 8, "sample_width": 20, "in_channels": 3, "patch_size": 4}
END
"$meshfold" shapes --out shapes.npy --count 4 --frames 5 --size 40x24 >output 2>errors || complain shapes
for i in $(seq 300); do echo "$i bottles of beer on the wall"; done >text
verify=(verify --model config.json --seq 40 --threads 1 --device cuda --reference-device cpu)

# --- every layout agrees with one rank of the CPU ---------------------------------------------------------------------
# shellcheck disable=SC2054 # commas are part of a mesh
meshes=(single single tsp=2 tsp=3 tp=2 tp=2,reduction=scatter sp=2 sp=2,exchange=ring sp=2,exchange=ulysses
    sp=2,stream=gather tp=2,sp=2 dp=2 tsp=2,attention-stream=ring)
run 0 "${verify[@]}" --mesh "${meshes[@]}"
has '^device     cuda: .*; the reference.s is cpu$' '^12 of 12 layouts agree with single within 1e-05'
run 0 "${verify[@]}" --dtype bf16 --recompute block --mesh single tsp=2 tp=2
has '^2 of 2 layouts agree'
run 0 "${verify[@]}" --no-borrow --mesh single tsp=2 sp=2
has '^2 of 2 layouts agree'
run 0 "${verify[@]}" --recompute attention --mesh single dp=2,tsp=2
has '^1 of 1 layout agrees'

# --- a run, and what goes on from it ----------------------------------------------------------------------------------
train=(train --data text --threads 1 --seq 32 --batch 1 --eval-batches 1)
run 0 "${train[@]}" --device cuda --model config.json --mesh tsp=2 --steps 2 --out whole --save-every 1
has '^device     cuda: ' '^wrote whole' '^rank 0 beside a dry run of it: memory and bytes equal$'
for word in '"device": *"cuda"' '"device_name"' '"device_pool_peak_bytes": [1-9]'; do grep -q "$word" whole/summary.json || complain "summary.json: $word"; done
grep -q '"device": *"cuda"' whole/resolved.json || complain resolved.json
rm -r whole/checkpoints/*2
run 0 train --resume whole/checkpoints --mesh tp=2 --out again
has '^resumed '
run 0 train --resume whole/checkpoints --device cpu --mesh single --out here
same_numbers whole/model/model.safetensors again/model/model.safetensors
same_numbers whole/model/model.safetensors here/model/model.safetensors
run 0 eval --init whole/model --data text --seq 64 --windows 2 --mesh sp=2 --threads 1 --device cuda
has '^loss [0-9.]+ nats'
mv output there
run 0 eval --init whole/model --data text --seq 64 --windows 2 --threads 1 --device cpu
cut -c 1-8 there | head -n 1 | cmp -s - <(cut -c 1-8 output | head -n 1) || complain "eval differs: $(cat there)"

# --- what it says next ------------------------------------------------------------------------------------------------
generate=(generate --model whole/model --prompt "17 bottles" --prompt "8" --max-new 4 --threads 1 --ignore-eos)
run 0 "${generate[@]}" --device cpu
mv output there
for mesh in single tsp=2 tp=2,sp=2; do
    run 0 "${generate[@]}" --device cuda --mesh $mesh
    cmp -s there output || complain "generate on $mesh differs"
done
has ', on cuda$'
run 0 bench --model config.json --seq 32 --mesh single tsp=2 --rounds 1 --steps 1 --device cuda --threads 1
has '^device     cuda: '

# --- videos -----------------------------------------------------------------------------------------------------------
video=(--model video.json --threads 1)
# shellcheck disable=SC2054
run 0 verify "${video[@]}" --device cuda --reference-device cpu --batch 2 \
    --mesh single single dsp=2 sp=2 tsp=2 tp=2 tp=2,reduction=scatter dsp=3,stream=ring
has '^7 of 7 layouts agree'
run 0 train "${video[@]}" --data shapes.npy --batch 2 --steps 2 --mesh dsp=2 --device cuda --out clips --save-every 1
has '^rank 0 beside a dry run of it: memory and bytes equal$'
clips=(generate --model clips/model --clips 2 --steps 2 --threads 1)
run 0 "${clips[@]}" --device cpu --out there.npy
run 0 "${clips[@]}" --device cuda --mesh dsp=2 --out here.npy
same_numbers there.npy here.npy

# --- documents, narrow weights, conditions ----------------------------------------------------------------------------
run 0 tokenize --tokenizer "$2/tests/golden/tokenizer/llama3.json" --data text --document-per-line --out ids.bin
vocab=$(awk -F'[:, ]+' '/"vocab_size"/ { print $3 }' ids.json)
sed "s/\"vocab_size\": 256/\"vocab_size\": $vocab/" config.json >wider.json
run 0 verify --model wider.json --seq 40 --threads 1 --device cuda --reference-device cpu --data ids.bin --packed --mesh single tsp=3 sp=2,exchange=ulysses
has '^2 of 2 layouts agree'
run 0 "${verify[@]}" --init whole/model --dtype bf16 --mesh single tsp=2
has '^1 of 1 layout agrees'
run 0 "${generate[@]}" --device cuda --dtype bf16 --mesh tsp=2
sed 's/"in_channels"/"condition_tokens": 2, "condition_channels": 16, "in_channels"/' video.json >led.json
led=(--model led.json --threads 1 --device cuda)
run 0 verify "${led[@]}" --reference-device cpu --batch 2 --mesh single dsp=2 tsp=2 tp=2
has '^3 of 3 layouts agree'
run 0 train "${led[@]}" --data shapes.npy --batch 2 --steps 1 --mesh dsp=2 --out led
clips=(generate --model led/model --clips 2 --steps 2 --threads 1 --condition shapes.condition.npy --guidance 3)
run 0 "${clips[@]}" --device cpu --out there.npy
run 0 "${clips[@]}" --device cuda --mesh dsp=2 --out here.npy
same_numbers there.npy here.npy

# --- what can't be ----------------------------------------------------------------------------------------------------
run 2 "${train[@]}" --model config.json --steps 1 --device cuda:9
has 'error: --device cuda:9: no device cuda:9: this machine has [0-9]+ GPU'
run 2 "${train[@]}" --model config.json --steps 1 --device gpu
has 'error: --device gpu: is none of auto, cpu, cuda'
MESHFOLD_EMULATED_BYTES=1000000 run 1 "${train[@]}" --model config.json --steps 1 --device cuda
has 'error: rank 0: no memory for .*: [0-9]+ bytes of [a-z]+; [0-9]+ bytes held' \
    '^what fits here: not even 1024 tokens a sequence, the rest as it is, in the 976.6 KiB that a rank finds free$' \
    '^what fits elsewhere: meshfold plan --device cuda --cluster clusters/h200.json --model config.json .* --mesh single .*--longest$'
for _ in $(seq 10); do cat text; done >longer
MESHFOLD_EMULATED_BYTES=80000000 run 1 train --data longer --seq 8192 --model config.json --threads 1 --device cuda
has '^what fits here: [1-9][0-9]* tokens a sequence, the rest as it is, in the 76.3 MiB that a rank finds free$'
MESHFOLD_CUDA_MODULE=$folder/none.so run 2 "${train[@]}" --model config.json --steps 1 --device cuda
has 'error: --device cuda: no CUDA: '
MESHFOLD_CUDA_MODULE=libm.so.6 run 2 "${train[@]}" --model config.json --steps 1 --device cuda
has 'error: --device cuda: no CUDA: libm.so.6 is of another version, not of this program.s [0-9.]+: build them together$'
MESHFOLD_CUDA_MODULE=$folder/none.so run 2 "${train[@]}" --model config.json --steps 1 --engine nccl
has 'error: engine nccl: no CUDA: '
MESHFOLD_EMULATED_GPUS=0 run 2 "${train[@]}" --model config.json --steps 1 --device cuda
has 'error: --device cuda: no GPU: cudaGetDeviceCount: '

[ $failures = 0 ] || exit 1

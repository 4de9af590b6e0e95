#!/usr/bin/env bash
# failing_calls.sh BUILD [STRIDE]: every STRIDE-th call of CUDA, cuBLASLt, cuDNN or NCCL that a run makes (each one by
# default: an hour) fails, on emulated GPUs. The run ends well, where the call was one whose failure costs nothing, or
# with one line that names the call or what there is no memory for; never by a signal, a hang, or without a word. By hand;
# the suite does it for collectives (tests/comm_device.c).
set -u
meshfold=$1/meshfold
stride=${2:-1}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 MESHFOLD_CUDA_MODULE=$1/libmeshfold_cuda_emulated.so MESHFOLD_EMULATED_GPUS=2
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE
cd "$folder" || exit 1

cat >config.json <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "vocab_size": 256}
JSON
for i in $(seq 60); do echo "$i bottles of beer on the wall"; done >text
# A kernel's launch is named by what the kernel does; where CUDA can't say whose memory an address is, it is nobody's.
named='\(cuda[A-Z]|cublasLt|cudnn|nccl|NCCL|no memory for|GPU'
failures=0 runs=0

complain() {
    echo "FAILED: call $1: $2: meshfold ${*:3}"
    tail -n 1 output
    failures=$((failures + 1))
}

# each_call WORD...: until ten runs in a row end as though nothing had failed. Without a failure it must run.
each_call() {
    local passed=0 n=1 code
    "$meshfold" "$@" >output 2>&1 || { complain 0 "does not run" "$@" && return; }
    while [ $passed -lt 10 ]; do
        code=0
        MESHFOLD_EMULATED_FAIL=$n timeout -k 5 60 "$meshfold" "$@" >output 2>&1 || code=$?
        case $code in
        0) passed=$((passed + 1)) ;;
        1 | 2)
            passed=0
            grep -qE "error: .*($named)" output || complain $n "names no call" "$@"
            ;;
        *) passed=0 && complain $n "exit $code" "$@" ;;
        esac
        runs=$((runs + 1)) n=$((n + stride))
    done
    echo "$((n - 10 * stride)) calls: meshfold $*"
}

train=(train --model config.json --data text --threads 1 --seq 12 --batch 1 --eval-batches 1 --steps 1)
for words in '--mesh single' '--mesh tsp=2' '--mesh tp=2 --no-borrow' '--mesh sp=2,exchange=ring --dtype bf16' \
    '--mesh tp=2 --engine nccl' '--mesh tsp=4 --engine one-of'; do
    # shellcheck disable=SC2086
    each_call "${train[@]}" --device cuda $words
done
"$meshfold" "${train[@]}" --device cpu --mesh single --out whole >output 2>&1 || complain 0 "no model to go on from"
each_call generate --model whole/model --prompt 17 --max-new 2 --threads 1 --ignore-eos --device cuda --mesh tsp=2
each_call eval --init whole/model --data text --seq 12 --windows 1 --threads 1 --device cuda --mesh sp=2
each_call "${train[@]}" --device cuda+cudnn --dtype bf16 --mesh single
echo "$runs runs, $failures failures"
exit $((failures > 0))

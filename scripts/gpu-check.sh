#!/usr/bin/env bash
# gpu-check.sh: on a machine with a GPU, one command that checks what runs there and measures it, within ten minutes and
# without a network. docs/gpu.md says how to read what it writes.
set -u
usage() {
    cat <<'END'
usage: scripts/gpu-check.sh [flags]            build here, check, measure
       scripts/gpu-check.sh --pack DIR         build for another machine: all that --from needs, at most 60 MiB
       scripts/gpu-check.sh --from DIR [flags] check and measure with what --pack has put there
       scripts/gpu-check.sh --emulated [flags] small, on the CPU: the build's emulated GPU stands in

  --build DIR     the build folder (default: build)
  --out DIR       where the JSON goes (default: bench/results/gpu; emulated: the build folder's gpu-check)
  --arch A;B      what nvcc compiles for, in CMake's words, as 90a-real (default: as cmake/cuda.cmake says)
  --only A,B,...  these parts alone: ops layouts memory train peers ranks kernels attention sanitizer
  --seconds N     for all of it (default: 570)

Every part writes NAME.json. Exit 0: all parts that ran passed; 1: some failed; 2: nothing could begin.
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build out='' from='' pack='' emulated=0 only='' seconds=570 arch='' libraries=''
said="scripts/gpu-check.sh $*"

die() {
    echo "gpu-check: $*" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --emulated) emulated=1 ;;
    --pack | --from | --build | --out | --only | --seconds | --arch)
        [ $# -ge 2 ] || die "$1 needs a value"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die "unknown word $1; see --help" ;;
    esac
    shift
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "--seconds $seconds: expected seconds"
# shellcheck disable=SC2206 # split at commas on purpose
IFS=, read -ra wanted <<<"$only"
for name in "${wanted[@]}"; do
    [[ " ops layouts memory train peers ranks kernels attention sanitizer " = *" $name "* ]] || die "--only: no part $name"
done

op_tests=(attention cudnn_attention ops_vectors ops_layers ops_loss ops_modulation)

# --- building ---------------------------------------------------------------------------------------------------------
# Where CUDA's own libraries may lie: its toolkit, or what Python's packages brought.
cuda_folders() {
    local folder
    for folder in /usr/local/cuda/lib64 /usr/local/cuda-*/lib64; do [ -d "$folder" ] && echo "$folder"; done
    python3 -c 'import glob, site, sys
for p in sys.path + site.getsitepackages():
    for f in glob.glob(p + "/nvidia/*/lib"): print(f)' 2>/dev/null
}

# cuDNN for cmake, where only Python's packages have it.
cudnn_flags() {
    local folder
    echo '#include <cudnn.h>' | cc -E -x c -I/usr/local/cuda/include - >/dev/null 2>&1 && return
    for folder in $(cuda_folders); do
        if [ -e "$folder/libcudnn.so.9" ] && [ -e "$folder/../include/cudnn.h" ]; then
            echo "-DCUDNN_INCLUDE=$folder/../include -DCUDNN_LIBRARY=$folder/libcudnn.so.9"
            return
        fi
    done
    return 1
}

# What this machine lacks to build with, by the names that quickstart installs.
lacking() {
    local tool pair
    for tool in cc c++ cmake pkg-config nvcc; do command -v "$tool" >/dev/null || echo "$tool"; done
    for pair in jansson:libjansson-dev hwloc:libhwloc-dev libpcre2-8:libpcre2-dev libutf8proc:libutf8proc-dev \
        libxxhash:libxxhash-dev libpng:libpng-dev cmocka:libcmocka-dev; do
        pkg-config --exists "${pair%%:*}" 2>/dev/null || echo "${pair##*:}"
    done
    cudnn_flags >/dev/null || echo cuDNN
    echo '#include <dnnl.h>' | cc -E -x c - >/dev/null 2>&1 || echo libdnnl-dev
}

targets() {
    echo meshfold meshfold_cuda
    printf 'test_%s ' "${op_tests[@]}"
    local source
    for source in kernels attention; do [ -e "$root/bench/$source.c" ] && echo "bench_$source"; done
}

# build_into FOLDER FLAG...
build_into() {
    local folder=$1 missing
    shift
    export PATH=$PATH:/usr/local/cuda/bin
    mapfile -t missing < <(lacking)
    [ ${#missing[@]} = 0 ] || die "this machine lacks ${missing[*]}; where these can't be installed, run --pack DIR \
elsewhere and --from DIR here"
    if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
    command -v mpicc >/dev/null || set -- "$@" -DMESHFOLD_MPI=OFF
    [ -z "$arch" ] || set -- "$@" "-DCMAKE_CUDA_ARCHITECTURES=$arch"
    mkdir -p "$folder"
    echo "gpu-check: building in $folder (log: $folder/gpu-check.log)"
    # shellcheck disable=SC2046 # words on purpose
    { cmake -S "$root" -B "$folder" -DMESHFOLD_CUDA=ON $(cudnn_flags) "$@" &&
        cmake --build "$folder" --parallel "$(nproc)" --target $(targets); } >"$folder/gpu-check.log" 2>&1 || {
        tail -n 30 "$folder/gpu-check.log" >&2
        die "it does not build; the log is $folder/gpu-check.log"
    }
}

# The libraries that a program needs, but those of the C and C++ compilers, which other programs there want in their own
# version, and CUDA's.
libraries_of() {
    ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
        grep -Ev '/(libc|libm|libdl|libpthread|librt|libresolv|libstdc\+\+|libgcc_s|ld-linux[^/]*|libcuda|libcublas|libcublasLt|libcudart|libnccl|libcudnn[^/]*)\.so'
}

make_pack() {
    local folder=$root/build-pack-objects size program
    build_into "$folder" -DCMAKE_BUILD_TYPE=Release -DMESHFOLD_NATIVE=OFF -DMESHFOLD_MPI=OFF \
        -DCMAKE_C_FLAGS=-march=x86-64-v3
    rm -rf "$pack"
    mkdir -p "$pack/bin" "$pack/lib" || die "--pack $pack: cannot be made"
    for program in meshfold libmeshfold_cuda.so "${op_tests[@]/#/tests/test_}" bench/bench_kernels bench/bench_attention; do
        [ -e "$folder/$program" ] || continue
        cp "$folder/$program" "$pack/bin/"
        strip "$pack/bin/${program##*/}"
    done
    # shellcheck disable=SC2046 # words on purpose
    cp -L $(libraries_of "$pack"/bin/*) "$pack/lib/"
    printf '%s\n' '#!/bin/sh' '# meshfold with the libraries beside it.' 'here=$(cd "$(dirname "$0")" && pwd)' \
        'LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/bin/meshfold" "$@"' >"$pack/meshfold"
    chmod +x "$pack/meshfold"
    size=$(du -sm "$pack" | cut -f1)
    echo "gpu-check: $pack holds $size MiB"
    [ "$size" -lt 60 ] || die "$pack is $size MiB; 60 is the most"
}

if [ -n "$pack" ]; then
    make_pack
    exit 0
fi

if [ -n "$from" ]; then
    from=$(cd "$from" 2>/dev/null && pwd) || die "--from: no such folder"
    [ -x "$from/bin/meshfold" ] || die "--from $from: has no bin/meshfold; make it with --pack"
    libraries=$from/lib:$(cuda_folders | sort -u | tr '\n' ':')${LD_LIBRARY_PATH:-}
elif [ $emulated = 1 ]; then
    build=$(cd "$build" 2>/dev/null && pwd) || die "--build: no such folder"
    export MESHFOLD_CUDA_MODULE=$build/libmeshfold_cuda_emulated.so
    [ -e "$MESHFOLD_CUDA_MODULE" ] || die "$build has no emulated GPU"
else
    build_into "$build"
fi
if [ $emulated = 1 ]; then default_out=$build/gpu-check; else default_out=$root/bench/results/gpu; fi
out=${out:-$default_out}
mkdir -p "$out" || die "--out $out: cannot be made"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# program NAME: where it lies, built or packed.
program() {
    local place
    for place in "$from/bin" "$build" "$build/tests" "$build/bench"; do
        [ -x "$place/$1" ] && echo "$place/$1" && return
    done
    return 1
}
meshfold=$(program meshfold) || die "no program"
LD_LIBRARY_PATH=${libraries:-${LD_LIBRARY_PATH:-}} "$meshfold" info >"$work/info" 2>&1 || die "meshfold does not start: $(tail -n 1 "$work/info")"

# --- JSON -------------------------------------------------------------------------------------------------------------
quoted() {
    printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$/"/'
    [ -n "$1" ] || printf '""'
}

# figures FILE: rows of a CSV whose texts may be quoted, as JSON objects, one a line.
csv_rows() {
    awk '
        function cells(line, out,   i, c, n, q) {
            n = 1; q = 0; split("", out)
            for (i = 1; i <= length(line); i++) {
                c = substr(line, i, 1)
                if (c == "\"") q = !q
                else if (c == "," && !q) n++
                else out[n] = out[n] c
            }
            return n
        }
        NR == 1 { columns = cells($0, name); next }
        {
            cells($0, value); line = ""
            for (i = 1; i <= columns; i++) {
                v = value[i]
                if (v == "") v = "null"
                else if (v != "true" && v != "false" && v !~ /^-?[0-9.]+(e[-+]?[0-9]+)?$/) {
                    gsub(/\\/, "\\\\", v); v = "\"" v "\""
                }
                line = line (i > 1 ? ", " : "") "\"" name[i] "\": " v
            }
            print "{" line "}"
        }' "$1"
}

if [ $emulated = 1 ]; then
    card='an emulated GPU'
else
    card=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
fi
processor=$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)

# write_json PART STATUS SECONDS WHY
write_json() {
    {
        printf '{\n  "part": %s,\n  "status": %s,\n  "seconds": %s,\n  "why": %s,\n' \
            "$(quoted "$1")" "$(quoted "$2")" "$3" "$(quoted "$4")"
        printf '  "command": %s,\n' "$(quoted "$said")"
        printf '  "machine": {"gpu": %s, "processor": %s, "cores": %s},\n' "$(quoted "$card")" \
            "$(quoted "$processor")" "$(nproc)"
        printf '  "figures": [\n'
        sed '$!s/$/,/; s/^/    /' "$work/$1.figures"
        printf '  ]\n}\n'
    } >"$out/$1.json"
}

# --- parts ------------------------------------------------------------------------------------------------------------
began=$SECONDS
names=() statuses=() took=() whys=()

left() { echo $((seconds - (SECONDS - began))); }
# What a part says of itself: figure JSON-OBJECT; why TEXT; not_run TEXT, which ends it.
figure() { printf '%s\n' "$*" >>"$work/$part.figures"; }
why() { printf '%s; ' "$*" >>"$work/$part.why"; }
not_run() {
    why "$*"
    exit 77
}
# limited COMMAND...: within what the part has left; its output is $work/log. What was packed finds its libraries; PyTorch
# has its own.
limited() {
    local rest=$((until - SECONDS))
    [ $rest -gt 0 ] || return 124
    if [ -n "$libraries" ] && [ "$1" != python3 ]; then
        LD_LIBRARY_PATH=$libraries timeout -k 5 "$rest" "$@" >"$work/log" 2>&1
    else
        timeout -k 5 "$rest" "$@" >"$work/log" 2>&1
    fi
}
last_line() { grep -v '^ *$' "$work/log" | tail -n 1 | cut -c 1-300; }

# run_part NAME SECONDS: the function part_NAME, in a process of its own.
run_part() {
    local name=$1 most=$2 rest code start=$SECONDS status
    [ -z "$only" ] || [[ ,$only, = *,$name,* ]] || return
    rest=$(left)
    : >"$work/$name.figures"
    : >"$work/$name.why"
    printf '%-10s ' "$name"
    if [ "$rest" -lt 5 ]; then
        code=77
        echo 'no time was left; ' >"$work/$name.why"
    else
        [ "$rest" -gt "$most" ] || most=$rest
        (
            part=$name until=$((SECONDS + (rest < $2 ? rest : $2)))
            "part_$name"
        )
        code=$?
    fi
    case $code in 0) status=passed ;; 77) status='not run' ;; *) status=FAILED ;; esac
    names+=("$name") statuses+=("$status") took+=($((SECONDS - start))) whys+=("$(cat "$work/$name.why")")
    write_json "$name" "$status" $((SECONDS - start)) "$(cat "$work/$name.why")"
    printf '%-8s %4d s  %s\n' "$status" $((SECONDS - start)) "$(cut -c 1-200 "$work/$name.why")"
}

part_ops() {
    local name failed=0 code start tests=("${op_tests[@]}") test
    [ $emulated = 1 ] && tests=(ops_vectors)
    for name in "${tests[@]}"; do
        test=$(program "test_$name") || { why "no test_$name" && failed=1 && continue; }
        start=$SECONDS code=0
        MESHFOLD_TEST_DEVICE=cuda MESHFOLD_CUDA_BLOCKING=1 limited "$test" || code=$?
        figure "{\"test\": \"$name\", \"exit\": $code, \"seconds\": $((SECONDS - start))}"
        [ $code = 0 ] && continue
        failed=1
        why "$name: exit $code, $(grep -m 1 -E 'ERROR|error' "$work/log" | cut -c 1-160)"
        cp "$work/log" "$out/ops_$name.log"
    done
    return $failed
}

# Every layout at 1 to 8 ranks on one GPU, against one rank.
part_layouts() {
    local dtype failed=0 code start meshes=(single tsp=2 tsp=3 tsp=4 tsp=8 tp=2 tp=4 tp=8 tp=4,reduction=scatter sp=2
        sp=4,exchange=ring sp=4,exchange=ulysses sp=8 sp=4,stream=gather sp=8,stream=gather tp=2,sp=2 tp=4,sp=2 tp=2,sp=4
        dp=2,tsp=2 tp=2,tsp=2 dp=8 dp=2,tp=2,sp=2) dtypes=(f32 bf16) seq=1024
    [ $emulated = 1 ] && meshes=(single tsp=2 tp=2 sp=2) && dtypes=(f32) seq=32
    for dtype in "${dtypes[@]}"; do
        start=$SECONDS code=0
        limited "$meshfold" verify --device cuda --model tiny --dtype "$dtype" --seq "$seq" --mesh "${meshes[@]}" || code=$?
        figure "{\"dtype\": \"$dtype\", \"layouts\": $((${#meshes[@]} - 1)), \"exit\": $code, \"seconds\": $((SECONDS - start)), \"verdict\": $(quoted "$(last_line)")}"
        why "$dtype: $(last_line)"
        [ $code = 0 ] || failed=1
    done
    return $failed
}

# csv_cell FILE COLUMN: of the first line.
csv_cell() { csv_rows "$1" | head -n 1 | sed -n "s/.*\"$2\": \([^,}]*\).*/\1/p"; }

# bench_rows WORD...: `meshfold bench`, whose rows become figures; "fits": false is a figure like another. On $device.
device=cuda
bench_rows() {
    limited "$meshfold" bench --device "$device" --rounds 1 --csv "$work/rows.csv" "$@" || {
        why "$(last_line)"
        return 1
    }
    csv_rows "$work/rows.csv" >>"$work/$part.figures"
}

# What one rank holds, measured beside the plan, to the byte.
part_memory() {
    local meshes=(tsp=8 tp=8 tp=8,reduction=scatter tp=4,sp=2 tp=2,sp=4 sp=8,exchange=ring sp=8,stream=gather) seq=4096 \
        model=demo failed=0 way dtype dtypes=(f32 bf16)
    [ $emulated = 1 ] && meshes=(tsp=4 tp=2) seq=64 model=tiny dtypes=(bf16)
    for dtype in "${dtypes[@]}"; do
        for way in '' --no-borrow; do
            bench_rows --engine one-of --model "$model" --dtype "$dtype" --seq "$seq" --steps 1 ${way:+$way} \
                --mesh "${meshes[@]}" || failed=1
        done
    done
    local differ
    differ=$(awk '{ match($0, /"peak_bytes": [0-9]+/); a = substr($0, RSTART + 14, RLENGTH - 14)
        match($0, /"dry_peak_bytes": [0-9]+/); b = substr($0, RSTART + 18, RLENGTH - 18)
        if (a == "" || a != b) n++ } END { print n + 0 }' "$work/$part.figures")
    why "$(wc -l <"$work/$part.figures") peaks, $differ of them other than planned"
    [ "$differ" = 0 ] && return $failed
    return 1
}

# A Llama of 1.2e9 parameters.
write_model() {
    cat >"$work/llama.json" <<'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 20,
 "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 32000,
 "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}
END
}

# said_rates: the rates of the part's figures, in words.
said_rates() {
    sed -n 's/.*"layout": "\([^"]*\)", "seq": \([0-9]*\).*"peak_bytes": \([0-9]*\).*"tokens_per_s": \([0-9]*\)[^,]*, "flops_share_of_peak": \([0-9]*\.\{0,1\}[0-9]\{0,3\}\).*/\1 at \2: \4 tokens a second, \5 of the measured peak/p' "$work/$part.figures"
}

part_train() {
    local recompute seq failed=0
    [ $emulated = 1 ] && not_run 'an emulated GPU has no speed'
    write_model
    for recompute in none block; do
        for seq in 8192 32768; do
            for device in cuda cuda+cudnn; do
                bench_rows --model "$work/llama.json" --dtype bf16 --recompute $recompute --seq $seq --steps 3 --mesh single ||
                    failed=1
            done
        done
    done
    device=cuda
    while read -r line; do why "$line"; done < <(said_rates)
    return $failed
}

# The same model in PyTorch, on the same card.
part_peers() {
    local recompute seq failed=0 compile
    [ $emulated = 1 ] && not_run 'an emulated GPU has no speed'
    python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
        not_run 'python3 has no torch that sees a GPU'
    write_model
    for compile in '' --compile; do
        for recompute in none block; do
            for seq in 8192 32768; do
                [ -z "$compile" ] && [ $recompute = block ] && continue
                if limited python3 "$root/bench/peers/torch_train.py" --model "$work/llama.json" --seq $seq \
                    --recompute $recompute --steps 3 ${compile:+$compile}; then
                    figure "$(last_line)"
                else
                    why "torch, $seq tokens, recompute $recompute ${compile#--}: $(last_line)"
                    failed=1
                fi
            done
        done
    done
    return $failed
}

# The peaks that the TSP paper gives (arXiv 2604.26294), GB.
paper_peak() {
    case "$1 $2" in
    'tsp=8 16384') echo 31.0 ;;
    'tp=8 16384') echo 31.5 ;;
    'tsp=8 131072') echo 38.8 ;;
    'tp=8 131072') echo 70.0 ;;
    'tp=4,sp=2,zero=0 131072') echo 85.0 ;;
    'tp=2,sp=4,zero=0 131072') echo 140.0 ;;
    *) echo null ;;
    esac
}

# One rank of eight of the paper's model, for its memory and for what it computes.
part_ranks() {
    local seq mesh failed=0 done=0
    [ $emulated = 1 ] && not_run 'an emulated GPU has no speed'
    for seq in 16384 32768 65536 131072; do
        for mesh in tsp=8 tp=8 tp=4,sp=2,zero=0 tp=2,sp=4,zero=0 sp=8,stream=gather; do
            if [ $((until - SECONDS)) -lt 10 ]; then
                why "$mesh at $seq was not run: no time was left"
                continue
            fi
            limited "$meshfold" bench --engine one-of --no-borrow --device cuda --model tsp-7b --dtype bf16 --recompute block \
                --seq $seq --rounds 1 --steps 1 --mesh $mesh --csv "$work/rows.csv" || {
                why "$mesh at $seq: $(last_line)"
                failed=1
                continue
            }
            done=$((done + 1))
            figure "$(csv_rows "$work/rows.csv" | sed "s/}\$/, \"paper_peak_gb\": $(paper_peak $mesh $seq)}/")"
            [ "$(csv_cell "$work/rows.csv" peak_bytes)" = "$(csv_cell "$work/rows.csv" dry_peak_bytes)" ] || {
                why "$mesh at $seq: $(csv_cell "$work/rows.csv" peak_bytes) bytes, planned $(csv_cell "$work/rows.csv" dry_peak_bytes)"
                failed=1
            }
        done
    done
    why "$done of 20 measured"
    return $failed
}

part_kernels() {
    local bench
    [ $emulated = 1 ] && not_run 'an emulated GPU has no speed'
    bench=$(program bench_kernels) || not_run 'bench_kernels was not built'
    limited "$bench" --device cuda --json "$work/kernels.json" || {
        why "$(last_line)"
        return 1
    }
    figure "$(tr -d '\n' <"$work/kernels.json")"
    cp "$work/log" "$out/kernels.txt"
}

# Ours, and cuDNN's and FlashAttention's through PyTorch.
part_attention() {
    local bench name code=0
    [ $emulated = 1 ] && not_run 'an emulated GPU has no speed'
    bench=$(program bench_attention) || not_run 'bench_attention was not built'
    for name in cuda cuda+cudnn; do
        limited "$bench" --device $name || code=$?
        cp "$work/log" "$out/attention-$name.txt"
        figure "{\"whose\": \"meshfold\", \"device\": \"$name\", \"exit\": $code, \"text\": $(quoted "$(cat "$work/log")")}"
        [ $code = 0 ] || why "$name: $(last_line)"
    done
    if ! python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        why 'torch: not run: python3 has none that sees a GPU'
    elif limited python3 "$root/bench/peers/torch_attention.py"; then
        grep '^{' "$work/log" >>"$work/$part.figures"
    else
        why "torch: $(last_line)"
        code=1
    fi
    return $code
}

part_sanitizer() {
    local tool name test failed=0 code
    [ $emulated = 1 ] && not_run 'the emulator has guards of its own'
    tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) ||
        not_run 'no compute-sanitizer'
    for name in ops_vectors ops_loss ops_modulation ops_layers attention; do
        test=$(program "test_$name") || continue
        code=0
        MESHFOLD_TEST_DEVICE=cuda MESHFOLD_CUDA_BLOCKING=1 limited "$tool" --tool memcheck --error-exitcode 9 "$test" || code=$?
        figure "{\"test\": \"$name\", \"exit\": $code, \"summary\": $(quoted "$(grep 'ERROR SUMMARY' "$work/log" | tail -n 1)")}"
        grep -q 'Device not supported' "$work/log" && not_run 'compute-sanitizer does not support this device'
        if [ $code = 124 ] || [ $code = 137 ]; then
            why "$name: ended by the clock"
            break
        fi
        [ $code = 0 ] || { why "$name: exit $code" && failed=1; }
    done
    return $failed
}

echo "gpu-check: $card; figures go to $out"
run_part ops 90
run_part layouts 60
run_part memory 40
run_part train 90
run_part peers 120
run_part ranks 200
run_part kernels 40
run_part attention 40
run_part sanitizer 120

failed=0
printf '\n%-10s %-8s %6s  %s\n' part status time ''
for i in "${!names[@]}"; do
    printf '%-10s %-8s %4d s  %s\n' "${names[i]}" "${statuses[i]}" "${took[i]}" "$(printf '%s' "${whys[i]}" | cut -c 1-300)"
    [ "${statuses[i]}" != FAILED ] || failed=1
done
exit $failed

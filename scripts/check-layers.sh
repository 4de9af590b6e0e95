#!/usr/bin/env bash
# check-layers.sh: reads the includes of src/ and include/ and fails when a room uses one that it must not know.
#   check-layers.sh [ROOT]        checks ROOT (default: this repository)
#   check-layers.sh --self-test   checks that breaches in a tree of its own are found
set -euo pipefail

# What each room may include besides itself. A file src/ROOM/... and the header include/meshfold/ROOM.h belong to ROOM.
declare -A knows=(
    [base]=""
    [memory]="base"
    [device]="base memory"
    [comm]="base memory device"
    [mesh]="base memory device comm"
    [schedule]="base memory device comm mesh"
    [model]="base memory device comm mesh schedule io"
    [io]="base"
    [train]="base memory device comm mesh schedule model io"
    [infer]="base memory device comm mesh schedule model io train"
    [plan]="base memory device comm mesh schedule model io train"
    [cli]="base memory device comm mesh schedule model io train infer plan"
)

# Headers that have another name than their room.
declare -A header_room=([rates]=plan [analytic]=plan [checkpoint]=train [convert]=train [video_data]=train
    [shapes]=train [tokenizer]=io [video]=io [cut]=schedule)

breaches=0
breach() {
    echo "layers: $1:$2: $3"
    breaches=$((breaches + 1))
}

# The room of a path below src/ or include/: "device/cpu/cpu.h" and "meshfold/device.h" are both device's.
room_of() {
    local path=${1#meshfold/}
    path=${path%%/*}
    path=${path%.*}
    echo "${header_room[$path]:-$path}"
}

check_quoted() {
    local file=$1 line=$2 target=$3 room=$4
    case $target in
    *..*) breach "$file" "$line" "\"$target\": includes are named from src/ or include/, without .." && return ;;
    */*) ;;
    *) # a bare name is the file's own neighbour
        [ -f "$(dirname "$file")/$target" ] || breach "$file" "$line" "\"$target\" names no room"
        return
        ;;
    esac
    local other
    other=$(room_of "$target")
    if [ -z "${knows[$other]+known}" ]; then
        breach "$file" "$line" "\"$target\": there is no room $other"
    elif [ "$other" != "$room" ] && [[ " ${knows[$room]} " != *" $other "* ]]; then
        breach "$file" "$line" "$room must not include $other (\"$target\")"
    fi
    if [[ $target =~ ^device/(cpu|cuda|cuda_sizes|dry)/ && $file != src/device/* ]]; then
        breach "$file" "$line" "only src/device may include a backend (\"$target\")"
    fi
}

check_system() {
    local file=$1 line=$2 target=$3
    case $target in
    mpi.h) [[ $file == src/comm/* ]] || breach "$file" "$line" "only src/comm may include <$target>" ;;
    *dnnl*) [[ $file == src/device/cpu/* ]] || breach "$file" "$line" "only src/device/cpu may include <$target>" ;;
    esac
}

check_file() {
    local file=$1 path=${1#src/} room line text
    path=${path#include/}
    room=$(room_of "$path")
    if [ -z "${knows[$room]+known}" ]; then
        breach "$file" 1 "there is no room $room"
        return
    fi
    while IFS=: read -r line text; do
        if [[ $text =~ include[[:space:]]*\"([^\"]+)\" ]]; then
            check_quoted "$file" "$line" "${BASH_REMATCH[1]}" "$room"
        elif [[ $text =~ include[[:space:]]*\<([^\>]+)\> ]]; then
            check_system "$file" "$line" "${BASH_REMATCH[1]}"
        else
            breach "$file" "$line" "an include that this check can't read"
        fi
    done < <(grep -nE '^[[:space:]]*#[[:space:]]*include' "$file" || true)
}

check_tree() {
    local count=0 file
    cd "$1"
    while IFS= read -r file; do
        check_file "$file"
        count=$((count + 1))
    done < <(find src include -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) | sort)
    if [ "$count" -eq 0 ]; then
        echo "layers: no files found"
        return 1
    fi
    if [ "$breaches" -gt 0 ]; then
        echo "layers: $breaches breaches in $count files"
        return 1
    fi
    echo "layers: $count files, each includes only what it may know"
}

# Plants one line in a good tree, and wants exactly that file and reason found; an empty reason: nothing found.
plant() {
    local file=$1 text=$2 reason=$3 output code=0
    rm -rf "${tree:?}/src" "$tree/include"
    mkdir -p "$tree/include/meshfold" "$tree/src/device/cpu" "$tree/src/comm" "$tree/src/train"
    echo '#include <stdint.h>' >"$tree/include/meshfold/base.h"
    echo '#include "meshfold/base.h"' >"$tree/include/meshfold/device.h"
    printf '#include "device/cpu/cpu.h"\n#include <dnnl.h>\n' >"$tree/src/device/cpu/gemm.c"
    echo '#include "device/ops.h"' >"$tree/src/device/cpu/cpu.h"
    echo '#include <mpi.h>' >"$tree/src/comm/mpi.c"
    printf '#include "meshfold/device.h"\n#include "train/step.h"\n' >"$tree/src/train/step.c"
    mkdir -p "$(dirname "$tree/$file")"
    printf '%s\n' "$text" >>"$tree/$file"
    output=$(bash "$self" "$tree" 2>&1) || code=$?
    if [ -z "$reason" ]; then
        [ "$code" -eq 0 ] && return
    elif [ "$code" -eq 1 ] && [[ $output == *"$file:"*"$reason"* && $output == *"layers: 1 breaches"* ]]; then
        return
    fi
    echo "layers: self-test: $file with '$text': expected '$reason', got exit $code and: $output"
    exit 1
}

self_test() {
    self=$(realpath "$0")
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    plant src/train/loop.c '#include "io/file.h"' ''
    plant src/train/loop.c '#include "meshfold/plan.h"' 'train must not include plan'
    plant src/base/status.c '  #  include "meshfold/memory.h"' 'base must not include memory'
    plant include/meshfold/base.h '#include "meshfold/device.h"' 'base must not include device'
    plant src/model/config.c '#include "meshfold/io.h"' ''
    plant src/io/text.c '#include "meshfold/model.h"' 'io must not include model'
    plant src/io/text.c '#include "meshfold/device.h"' 'io must not include device'
    plant src/infer/generate.c '#include "plan/cost.h"' 'infer must not include plan'
    plant src/plan/cost.c '#include "train/step.h"' ''
    plant src/train/loop.c '#include "device/cpu/cpu.h"' 'only src/device may include a backend'
    plant src/device/device.c '#include "device/cpu/cpu.h"' ''
    plant src/train/loop.c '#include <mpi.h>' 'only src/comm may include <mpi.h>'
    plant src/device/device.c '#include <oneapi/dnnl/dnnl.h>' 'only src/device/cpu may include'
    plant src/train/loop.c '#include "../model/block.h"' 'without ..'
    plant src/train/loop.c '#include "stdit/block.h"' 'there is no room stdit'
    plant src/train/loop.c '#include "step.h"' 'names no room'
    plant src/train/loop.c '#include HEADER' "can't read"
    plant src/stdit/block.c '#include "meshfold/base.h"' 'there is no room stdit'
    echo "layers: self-test: every planted breach was found, and nothing else"
}

if [ "${1:-}" = --self-test ]; then
    self_test
else
    check_tree "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
fi

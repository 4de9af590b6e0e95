#!/usr/bin/env bash
# memory.sh: peak memory of a rank by category over the number of ranks, measured and drawn.
#   bench/memory.sh OUT.svg [MODEL [SEQ [DTYPE]]]     default: preset speed, 2048 tokens, bf16
# Needs build/meshfold and gnuplot (Debian: gnuplot-nox). Trains one step for each mesh, borrowed and sent; the figures
# drawn stand in OUT.txt, in MiB. With OUT.txt there already, only draws.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
svg=${1:?usage: bench/memory.sh OUT.svg [MODEL [SEQ [DTYPE]]]}
model=${2:-speed} seq=${3:-2048} dtype=${4:-bf16}
table=${svg%.svg}.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for ((i = 0; i < 30 * seq; i++)); do printf 'x'; done >"$work/text"

# at_peak SUMMARY: rank 0's categories in MiB at the moment of its total peak
at_peak() {
    awk -F'[:,]' '/"at_peak_bytes"/ { on = 1; next } on && /}/ { exit }
        on { gsub(/[ "]/, "", $1); mib[$1] = $2 / 1048576 }
        END { print mib["weights"], mib["grads"], mib["optimizer"], mib["activations"], mib["stream"], mib["exchange"],
              mib["workspace"] }' "$1"
}

measure() {
    echo "mesh weights grads optimizer activations stream exchange workspace"
    for mesh in single tsp=2 tsp=4 tsp=8; do
        for way in borrowed sent; do
            if [ $mesh = single ] && [ $way = sent ]; then continue; fi
            flags=(--mesh $mesh --threads 1)
            if [ $way = sent ]; then flags+=(--no-borrow); fi
            build/meshfold train --model "$model" --data "$work/text" --seq "$seq" --steps 1 --dtype "$dtype" \
                --eval-batches 1 --out "$work/run" --force "${flags[@]}" >"$work/log"
            name="\"$mesh $way\""
            if [ $mesh = single ]; then name=single; fi
            echo "$name $(at_peak "$work/run/summary.json")"
        done
    done
}
if [ ! -e "$table" ]; then measure | tee "$work/table" && mv "$work/table" "$table"; fi

gnuplot <<END
set terminal svg size 900,420 font "sans,13" background "#ffffff"
set output "$svg"
set title "Peak memory of one rank: preset $model, $seq tokens, $dtype"
set style data histograms
set style histogram rowstacked
set style fill solid 0.9 border -1
set boxwidth 0.7
set key outside right reverse invert Left
set ylabel "MiB"
set yrange [0:*]
set grid ytics
set xtics rotate by -25 nomirror
plot for [c=2:8] "$table" using c:xtic(1) title columnheader(c)
END

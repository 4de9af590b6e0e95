#!/usr/bin/env bash
# resident.sh BUILD SOURCE: the process's own peak resident size agrees with the sum of what the ranks account, within
# 5% or 64 MiB, where much is taken and given back.
set -eu
if grep -q '^MESHFOLD_SANITIZE:STRING=.' "$1/CMakeCache.txt"; then
    echo "a sanitizer's own memory would be counted: nothing to compare"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -c 50000 /dev/zero | tr '\0' 'x' >"$work/text"
cat >"$work/config.json" <<'END'
{"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 16384}
END

failures=0
# agrees FLAG...: one run
agrees() {
    "$1/meshfold" train --model "$work/config.json" --data "$work/text" --seq 4096 --steps 2 --threads 1 \
        --eval-batches 1 --out "$work/run" --force "${@:2}" >"$work/log"
    awk -v flags="${*:2}" -F'[:,]' '/"peak_bytes"/ { on = 1 } on && /"total"/ { total += $2; on = 0 }
        /"rss_peak_bytes"/ { rss = $2 }
        /"predicted"/ { exit }
        END { over = rss - total; if (over < 0) over = -over
              printf "%s: accounted %.1f MiB, resident %.1f MiB\n", flags, total / 1048576, rss / 1048576
              exit !(total > 0 && (over <= 0.05 * total || over <= 64 * 1048576)) }' "$work/run/summary.json" ||
        failures=$((failures + 1))
}
agrees "$1" --mesh single
agrees "$1" --mesh tsp=2
agrees "$1" --mesh tsp=2 --no-borrow --dtype bf16
agrees "$1" --mesh tsp=4 --recompute block
exit $((failures > 0))

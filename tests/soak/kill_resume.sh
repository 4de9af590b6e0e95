#!/usr/bin/env bash
# kill_resume.sh BUILD [KILLS]: training runs that are killed (kill -9) at random moments and resumed, until each ends:
# its losses and its model must be those of a run that nobody killed. 100 kills by default: some minutes. By hand; the
# suite does a few (tests/checkpoint.sh).
set -u
meshfold=$1/meshfold
kills=${2:-100}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE

for i in $(seq 300); do echo "$i bottles of beer on the wall, $i bottles of beer"; done >text
settings=(--data text --model tiny --seq 48 --threads 1 --steps 150 --eval-every 40 --lr 3e-3)
meshes=('--mesh single --batch 2' '--mesh tsp=2 --batch 2' '--mesh dp=2,tsp=2' '--mesh tp=2,sp=2 --batch 2'
    '--mesh sp=3,stream=gather --batch 2 --dtype bf16')

losses() { sed -En 's/^\{"step":([0-9]+),"(loss|eval_loss)":([^,}]+).*/\1 \2 \3/p' "$1/metrics.jsonl"; }

# What is there must be loadable at any moment; without a checkpoint yet the run begins again.
next_start() { # NAME WORD...
    local name=$1
    shift
    if compgen -G "$name/checkpoints/step-??????" >/dev/null; then
        echo "--resume $name"
    else
        echo "${settings[*]} $* --out $name --force --save-every 3 --keep 2"
    fi
}

failures=0 killed=0 run=0 began=0 resumed=0
while [ $killed -lt "$kills" ]; do
    read -ra mesh <<<"${meshes[run % ${#meshes[@]}]}"
    reference=reference-$((run % ${#meshes[@]})) name=run-$run
    if [ ! -e "$reference" ]; then
        start=$(date +%s%N)
        "$meshfold" train "${settings[@]}" "${mesh[@]}" --out "$reference" >log 2>&1 || { cat log && exit 1; }
        took_ms=$((($(date +%s%N) - start) / 1000000))
        echo "$took_ms" >"$reference/took_ms"
    fi
    took_ms=$(cat "$reference/took_ms")
    ended=
    for attempt in $(seq 200); do
        read -ra words <<<"$(next_start "$name" "${mesh[@]}")"
        if [ "${words[0]}" = --resume ]; then resumed=$((resumed + 1)); else began=$((began + 1)); fi
        "$meshfold" train "${words[@]}" >log 2>&1 &
        pid=$!
        # the first attempts are killed, at moments spread over a run's length and its end
        if [ "$attempt" -le 8 ] && [ $killed -lt "$kills" ]; then
            sleep "$(awk -v most="$took_ms" -v seed="$RANDOM" 'BEGIN { srand(seed); print 1.3 * rand() * most / 1000 }')"
            kill -9 $pid 2>/dev/null && killed=$((killed + 1))
        fi
        { wait $pid; } 2>/dev/null
        code=$?
        [ $code = 137 ] && continue
        if [ $code = 0 ]; then
            ended=1
            break
        fi
        echo "FAILED: $name: exit $code: $(tail -n 3 log)"
        failures=$((failures + 1))
        break
    done
    if [ -z "$ended" ]; then
        failures=$((failures + 1))
    elif ! cmp -s <(losses "$reference") <(losses "$name"); then
        echo "FAILED: $name (${mesh[*]}): other losses: $(diff <(losses "$reference") <(losses "$name") | head -n 4)"
        failures=$((failures + 1))
    elif ! cmp -s "$reference/model/model.safetensors" "$name/model/model.safetensors"; then
        echo "FAILED: $name (${mesh[*]}): another model"
        failures=$((failures + 1))
    fi
    rm -rf "$name"
    run=$((run + 1))
done
echo "kill_resume: $run runs, killed $killed times, begun $began times, resumed $resumed times: $failures failures"
exit $((failures > 0))

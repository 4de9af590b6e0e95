#!/usr/bin/env bash
# plan.sh BUILD SOURCE: `meshfold plan` as a user runs it.
set -euo pipefail
meshfold=$1/meshfold source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export MESHFOLD_MACHINE=$work/none.json
failures=0
complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

plan=("$meshfold" plan --model tsp-7b --dtype bf16 --recompute block --seq 131072)
cluster=$source/clusters/h100.json

# The table: what fits first, what does not with how much is missing, what can't be with why.
"${plan[@]}" --cluster "$cluster" --mesh single sp=64,exchange=ulysses tsp=8 tp=8 >table || complain 'a plan fails'
for pattern in '^cluster  nodes of 8 H100' '^tsp=8  *fits ' '^single  *short by ' '^sp=64,exchange=ulysses  impossible: '; do
    grep -Eq "$pattern" table || complain "the table has no line like $pattern: $(cat table)"
done
order=$(awk '/^(single|sp=64|tsp=8|tp=8)/ { print $2 }' table | tr '\n' ' ')
[ "$order" = 'fits fits short impossible: ' ] || complain "the order is $order"

# The same as JSON; forward takes less time and memory.
"${plan[@]}" --cluster "$cluster" --mesh tsp=8 --json >train.json || complain '--json fails'
"${plan[@]}" --cluster "$cluster" --mesh tsp=8 --forward --json >forward.json || complain '--forward fails'
figure() { awk -F'[:, ]+' -v name="\"$2\"" '$2 == name { print $3; exit }' "$1"; }
for name in step_s total; do
    awk -v less="$(figure forward.json $name)" -v more="$(figure train.json $name)" \
        'BEGIN { exit !(less > 0 && less < more) }' || complain "$name: forward is not below training"
done

# What train measures is what plan says: peak memory, on threads that borrow.
printf 'x%.0s' {1..4000} >text
"$meshfold" bench --model tiny --seq 96 --mesh tsp=2 --rounds 1 --steps 1 --threads 1 --json real.json >/dev/null ||
    complain 'bench fails'
"$meshfold" plan --model tiny --seq 96 --mesh tsp=2 --borrow --cluster "$cluster" --json >dry.json || complain 'plan fails'
[ "$(figure real.json total)" = "$(figure dry.json total)" ] ||
    complain "peak memory: $(figure real.json total) bytes measured, $(figure dry.json total) planned"

# A search: the best rows of all layouts, each what the same mesh alone gives; words limit it.
search=("$meshfold" plan --model tsp-7b --dtype bf16 --seq 131072 --cluster "$cluster")
"${search[@]}" --ranks 8 --top 40 --explain --longest >found || complain 'a search fails'
for pattern in '^tsp=8' '^dp=8 .* short by ' '^[0-9]* layouts tried: ' '^First: ' '^Second: ' '^Best of tp: ' \
    '^Best of dp: .* does not fit' '^The longest sequences that fit'; do
    grep -Eq "$pattern" found || complain "the search has no line like $pattern: $(cat found)"
done
"${search[@]}" --ranks 8 --top 1 --json >best.json || complain '--json of a search fails'
text() { awk -F'"' -v name="$2" '$2 == name { print $4; exit }' "$1"; }
"${search[@]}" --mesh "$(text best.json layout)" --recompute "$(text best.json recompute)" --json >alone.json ||
    complain 'what the search found fails alone'
for name in step_s total exposed_s; do
    [ "$(figure best.json $name)" = "$(figure alone.json $name)" ] || complain "$name: the search's row is not the plan's"
done
[ "$(grep -c '"layout"' best.json)" = 1 ] && grep -q '"tried": [1-9]' best.json || complain "--top 1: $(cat best.json)"
"${search[@]}" --ranks 8 --exchange ring --recompute block --top 40 >found || complain 'a limited search fails'
rows=$(grep -c ' fits \| short by ' found)
[ "$rows" -gt 3 ] && [ "$rows" = "$(grep -c 'exchange=ring.* block ' found)" ] || complain "words don't limit: $(cat found)"

# Too large: the table all the same, and what would do. Many ranks.
"$meshfold" plan --model tsp-7b --dtype bf16 --seq 131072 --cluster "$cluster" --ranks 1 >found || complain 'too large: exit'
grep -q '^single .* short by ' found && grep -Eq '^Nothing fits on 1 rank; on [248] something does' found ||
    complain "too large: $(cat found)"
"$meshfold" plan --model tiny --seq 512 --cluster "$cluster" --ranks 1009 >found || complain 'a prime number of ranks fails'
grep -q 'left out, such as tp=1009: ' found || complain "1009 ranks: $(cat found)"
"$meshfold" plan --model tiny --seq 512 --cluster "$cluster" --ranks 100000 >found || complain '100,000 ranks fail'
grep -q '^dp=100000 ' found || complain "100,000 ranks: $(cat found)"

# The longest of a mesh: it fits, and a step more does not.
"${search[@]}" --mesh tsp=8 --longest --json >longest.json || complain '--longest fails'
tokens=$(awk -F'[:, ]+' '/"longest"/ { seen = 1 } seen && $2 == "\"tokens\"" { print $3; exit }' longest.json)
for more in 0 1024; do
    "$meshfold" plan --model tsp-7b --dtype bf16 --seq $((tokens + more)) --cluster "$cluster" --mesh tsp=8 >found
    grep -q "^tsp=8  *$([ $more = 0 ] && echo fits || echo 'short by')" found || complain "$tokens + $more: $(cat found)"
done

# Matrix products have no more rows than 32 bits count.
"$meshfold" plan --model tiny --seq 268435456 --batch 16 --cluster "$cluster" --mesh single sp=4 --longest >found ||
    complain 'many rows: exit'
grep -q '^single  *impossible: ' found && grep -q '^sp=4 ' found || complain "many rows: $(cat found)"

# Clips: given layouts, the most frames, a search with dsp, a page, a trace; and what train measures is what plan says.
clips=("$meshfold" plan --model stdit-720m --dtype bf16 --grid 32x32 --cluster "$cluster")
"${clips[@]}" --frames 16 --mesh dsp=4 sp=32,exchange=ulysses --longest --html clips.html --trace clips.json >found ||
    complain 'clips: a plan fails'
for pattern in 'of 1 clip of 16 frames of 32x32 patches a replica' '^dsp=4  *fits ' '^sp=32,exchange=ulysses  impossible: ' \
    '^The longest clips that fit' ' frames  *peak'; do
    grep -Eq "$pattern" found || complain "clips: no line like $pattern: $(cat found)"
done
grep -q '<th>frames</th>' clips.html && grep -q alltoall clips.json || complain 'clips: the page or the trace'
"${clips[@]}" --frames 16 --ranks 8 --explain >found || complain 'clips: a search fails'
for pattern in '^dp=4,dsp=2 ' '^[0-9]* layouts tried: ' '^Best of dsp'; do
    grep -Eq "$pattern" found || complain "clips: the search has no line like $pattern: $(cat found)"
done
"${clips[@]}" --frames 16 --mesh dsp=4 --longest --json >longest.json || complain 'clips: --longest fails'
frames=$(figure <(sed -n '/"longest"/,$p' longest.json) frames)
for more in 0 4; do
    "${clips[@]}" --frames $((frames + more)) --mesh dsp=4 >found
    grep -q "^dsp=4  *$([ $more = 0 ] && echo fits || echo 'short by')" found || complain "$frames + $more: $(cat found)"
done
"$meshfold" bench --model stdit-tiny --frames 5 --grid 3x7 --mesh dsp=2 --rounds 1 --steps 1 --threads 1 \
    --json real.json >/dev/null || complain 'clips: bench fails'
"$meshfold" plan --model stdit-tiny --frames 5 --grid 3x7 --mesh dsp=2 --borrow --cluster "$cluster" --json >dry.json ||
    complain 'clips: a small plan fails'
[ "$(figure real.json total)" = "$(figure dry.json total)" ] ||
    complain "clips: $(figure real.json total) bytes measured, $(figure dry.json total) planned"

# A page, and formulas, which need no cluster.
"${search[@]}" --ranks 4 --html page.html >/dev/null && grep -q 'tsp=4' page.html || complain '--html'
"$meshfold" plan --model tsp-7b --ranks 8 --analytic | grep -q '^tsp=8 ' || complain '--analytic'

# Mistakes: one line that names them, exit 2.
refuses() {
    local expected=$1 code=0
    shift
    "$meshfold" plan "$@" >out 2>err || code=$?
    [ "$code" = 2 ] || complain "$*: exit $code"
    [ "$(wc -l <err)" = 1 ] && grep -q -- "$expected" err || complain "$*: $(cat err)"
    [ ! -s out ] || complain "$*: prints a table"
}
echo '{"name": "x"}' >broken.json
refuses '--cluster: broken.json: device is missing' --model tiny --cluster broken.json --mesh single
refuses '--cluster: none.json: cannot be opened' --model tiny --cluster none.json --mesh single
refuses 'needs --cluster' --model tiny --mesh single
refuses '--mesh' --model tiny --cluster "$cluster"
refuses 'no axis is called "tq"' --model tiny --cluster "$cluster" --mesh tq=2
refuses 'needs --mesh, or --ranks' --model tiny --cluster "$cluster"
refuses '--mesh tsp=2 is 2 ranks, but --ranks is 4' --model tiny --cluster "$cluster" --ranks 4 --mesh tp=4 tsp=2
refuses 'no layout of 1 rank is left' --model tiny --cluster "$cluster" --ranks 1 --exchange ring
refuses '--ranks 0' --model tiny --cluster "$cluster" --ranks 0
refuses '--train and --forward' --model tiny --cluster "$cluster" --ranks 2 --train --forward
refuses '--explain' --model tiny --cluster "$cluster" --ranks 2 --explain --json
refuses '--top' --model tiny --cluster "$cluster" --mesh tsp=2 --top 3
refuses '--analytic needs --ranks' --model tiny --analytic
refuses 'without --mesh' --model tiny --analytic --ranks 2 --mesh tsp=2
refuses 'and --trace' --model tiny --analytic --ranks 2 --trace trace.json
refuses 'without --cluster' --model tiny --analytic --ranks 2 --cluster "$cluster"
refuses '--rounds is of --validate' --model tiny --cluster "$cluster" --ranks 2 --rounds 2
refuses '--top is for a search' --model tiny --analytic --ranks 2 --top 2
refuses 'is not a regular file' --model tiny --cluster . --mesh single
refuses 'no model two lines' --model $'two\nlines' --cluster "$cluster" --mesh single
refuses 'tokens are the most' --model tiny --cluster "$cluster" --seq 268435456 --batch 16 --ranks 1
refuses '--frames: is of clips' --model tiny --frames 8 --cluster "$cluster" --mesh single
refuses '--seq: is of texts' --model stdit-tiny --seq 8 --cluster "$cluster" --mesh single
refuses '--analytic: is about sequences of texts' --model stdit-tiny --analytic --ranks 2
refuses '--validate: is about sequences of texts' --model stdit-tiny --validate
refuses 'needs --model' --cluster "$cluster" --mesh single

[ "$failures" = 0 ] || exit 1
echo 'plan: all as expected'

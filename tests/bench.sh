#!/usr/bin/env bash
# bench.sh BUILD SOURCE: `meshfold bench` as a user runs it: that tables, JSON and CSV say the same, that bytes are
# those of the formulas, that what does not fit is a row, and how mistakes end.
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
    failures=$((failures + 1))
}

# bench NAME WORD...: a short run of the tiny model; what it prints is NAME.out.
bench() {
    local name=$1
    shift
    timeout -k 5 240 "$meshfold" bench --model tiny --threads 1 --rounds 2 --steps 1 "$@" >"$name.out" 2>"$name.err" ||
        complain "$name: exit $?: $(cat "$name.err")"
    [ ! -s "$name.err" ] || complain "$name: writes to stderr: $(cat "$name.err")"
}

# value FILE KEY...: a value out of a JSON file; nothing when it is not there.
value() {
    local file=$1 out
    shift
    echo "file(READ \"$PWD/$file\" text)
string(JSON value GET \"\${text}\" $*)
message(\"\${value}\")" >value.cmake
    out=$(cmake -P value.cmake 2>&1) && echo "$out"
}

# cell FILE LINE COLUMN: of a CSV file, whose texts may have commas; quotes come off.
cell() {
    awk -v line=$(($2 + 1)) -v column="$3" '
        FNR == 1 { for (n = split($0, name, ","); n > 0; n--) place[name[n]] = n }
        FNR == line {
            field = 1; quoted = 0; text = ""
            for (i = 1; i <= length($0); i++) {
                c = substr($0, i, 1)
                if (c == "\"") quoted = !quoted
                else if (c == "," && !quoted) field++
                else if (field == place[column]) text = text c
            }
            print text
        }' "$1"
}

# same A B: as words, or as numbers up to how they are printed.
same() {
    [ "$1" = "$2" ] ||
        awk -v a="$1" -v b="$2" 'BEGIN { d = (a - b) / b; exit !(a + 0 != 0 && d < 1e-12 && d > -1e-12) }'
}

# Where gnuplot is not installed all but the figures is tested.
plot=(--plot DIR)
command -v gnuplot >/dev/null || plot=()

# --- every kind of layout ---------------------------------------------------------------------------------------------
read -d '' -ra meshes <<<'single tsp=2 tsp=4 tp=2 tp=2,reduction=scatter sp=2 sp=2,exchange=ring sp=2,exchange=ulysses
sp=2,stream=gather tp=2,sp=2 dp=2,tsp=2 tsp=2,kv-bucket=1'
bench all --seq 64,128 --mesh "${meshes[@]:0:3}" --mesh "${meshes[@]:3}" --json all.json --csv all.csv \
    "${plot[@]/DIR/figures}"
lines=$((2 * ${#meshes[@]}))
[ "$(wc -l <all.csv)" = $((lines + 1)) ] || complain "all.csv has $(wc -l <all.csv) lines, not $((lines + 1))"
[ -n "$(value all.json layouts $((lines - 1)) layout)" ] || complain "all.json has fewer layouts than $lines"
[ -z "$(value all.json layouts $lines layout)" ] || complain "all.json has more layouts than $lines"
for ((i = 1; i <= lines; i++)); do
    mesh=$(cell all.csv $i layout)
    [ "$mesh" = "${meshes[(i - 1) % ${#meshes[@]}]}" ] || complain "all.csv, line $i: layout $mesh"
    [ "$(cell all.csv $i fits)" = true ] || complain "$mesh does not fit"
    [ "$(cell all.csv $i moved_mean_bytes)" = "$(cell all.csv $i moved_predicted_bytes)" ] || complain \
        "$mesh moves $(cell all.csv $i moved_mean_bytes) bytes, by formula $(cell all.csv $i moved_predicted_bytes)"
    [ "$(cell all.csv $i peak_bytes)" -gt 100000 ] || complain "$mesh: peak memory of $(cell all.csv $i peak_bytes)"
    awk -v least="$(cell all.csv $i step_s_min)" -v median="$(cell all.csv $i step_s_median)" \
        -v most="$(cell all.csv $i step_s_max)" 'BEGIN { exit !(0 < least && least <= median && median <= most) }' ||
        complain "$mesh: no times"
done
for i in 1 $((lines / 2 + 2)) $lines; do # as in the JSON
    at="layouts $((i - 1))"
    # shellcheck disable=SC2086 # a key is some words
    for pair in 'layout layout' 'seq seq' 'tokens_per_s tokens_per_s' 'step_s_median step_s median' \
        'exposed_share exposed_share' 'flops_share_of_peak flops_share_of_peak'; do
        same "$(cell all.csv $i ${pair%% *})" "$(value all.json $at ${pair#* })" ||
            complain "line $i: CSV and JSON differ in $pair: $(cell all.csv $i ${pair%% *})"
    done
    # shellcheck disable=SC2086
    for key in 'peak_bytes total' 'peak_bytes weights' 'at_peak_bytes stream' rss_peak_bytes 'comm 0 axis'; do
        [ -n "$(value all.json $at ranks 0 $key)" ] || complain "line $i: the JSON has no $key of rank 0"
    done
done
grep -q '"predicted_bytes"' all.json || complain 'all.json has no predictions by operation'
largest=0
for rank in 0 1; do
    peak=$(value all.json layouts $((lines - 1)) ranks $rank peak_bytes total)
    [ "$peak" -le "$largest" ] || largest=$peak
done
[ "$(cell all.csv $lines peak_bytes)" = "$largest" ] || complain 'peak_bytes are not those of the rank that needs most'

# --- what a person sees -----------------------------------------------------------------------------------------------
for pattern in '^model +tiny: 131.4k parameters, f32, training step, recompute none; 1 sequence a replica$' \
    '^measured +2 rounds of 1 step, engine local$' '^64 tokens: peak memory ' '^128 tokens: a step' \
    '^  mesh +total +weights +grads +optimizer +activations +stream +exchange +workspace$' \
    '^  mesh +moved +formula +step +spread +tokens/s +of peak +exposed$' \
    '^  mesh +axis +op +calls +sent +borrowed +formula +ratio$' \
    '^  tsp=2 +tsp +broadcast +[0-9]+ .* 1\.0000$' \
    '^  tsp=4 +[0-9.]+ [KM]iB +[0-9.]+ [KM]iB +[0-9.]+ s +[0-9.]+\.\.[0-9.]+ s '; do
    grep -qE "$pattern" all.out || complain "no line like $pattern"
done
[ "$(awk '{ if (length > w) w = length } END { print w }' all.out)" -le 120 ] || complain 'tables have too long lines'

# --- figures ----------------------------------------------------------------------------------------------------------
for figure in memory time bytes; do
    [ ${#plot[@]} != 0 ] || break
    head -c 5 figures/$figure.svg | grep -qE '^(<\?xml|<svg)' || complain "figures/$figure.svg is no picture"
    [ "$(grep -c '^[0-9]' figures/$figure.dat)" = 2 ] || complain "figures/$figure.dat has not a line a length"
    grep -q 'title "tsp=4"' figures/$figure.gp || complain "figures/$figure.gp does not draw tsp=4"
done
[ ${#plot[@]} = 0 ] ||
    [ "$(awk '$1 == 128 { print $3 }' figures/memory.dat)" = "$(cell all.csv $((${#meshes[@]} + 2)) peak_bytes)" ] ||
    complain 'memory.dat has other figures than all.csv'
mkdir empty
PATH=$PWD/empty "$meshfold" bench --model tiny --mesh single --plot none >output 2>&1
[ $? = 1 ] || complain 'a plot without gnuplot does not end with 1'
grep -q '^meshfold: error: --plot needs the program gnuplot' output || complain "gnuplot is not named: $(cat output)"
[ ! -e none ] || complain 'a plot without gnuplot leaves a folder'

# --- sent instead of borrowed, forward alone, other numbers -----------------------------------------------------------
bench sent --seq 64 --mesh tsp=2 sp=2,exchange=ring --no-borrow --csv sent.csv
bench forward --seq 64 --mesh single tsp=2 tp=2 --forward --csv forward.csv
bench bf16 --seq 64 --mesh tsp=2 dp=2,tp=2 --dtype bf16 --recompute block --batch 2 --csv bf16.csv
for run in sent forward bf16; do
    for i in 1 2; do
        [ "$(cell $run.csv $i moved_mean_bytes)" = "$(cell $run.csv $i moved_predicted_bytes)" ] || complain \
            "$run, $(cell $run.csv $i layout): $(cell $run.csv $i moved_mean_bytes) bytes are not the formula's"
    done
done
[ "$(cell forward.csv 2 peak_grads_bytes) $(cell forward.csv 2 peak_optimizer_bytes)" = '0 0' ] ||
    complain '--forward has gradients'
[ "$(cell forward.csv 2 moved_mean_bytes)" -lt "$(cell all.csv 2 moved_mean_bytes)" ] ||
    complain '--forward moves as much'
grep -q 'forward pass' forward.out || complain '--forward is not said'
bench json --seq 64 --mesh single --json -
[ "$(head -c 1 json.out)" = '{' ] || complain '--json - prints other things'
[ "$(value json.out layouts 0 seq)" = 64 ] || complain '--json - does not parse'

# --- rows without figures ---------------------------------------------------------------------------------------------
bench heads --seq 64 --mesh single sp=8,exchange=ulysses --csv heads.csv
grep -qE '^  sp=8,exchange=ulysses +not possible: .* query heads' heads.out || complain 'too few heads are not said'
[ "$(cell heads.csv 1 fits) $(cell heads.csv 2 fits)" = 'true false' ] || complain 'heads.csv: fits'
(
    ulimit -v 4000000
    bench large --seq 64,1000000 --mesh single tsp=2 --csv large.csv "${plot[@]/DIR/large}"
    exit $failures
)
failures=$?
grep -qE '^  single +does not fit: no memory for .*: [0-9]+ bytes of activations' large.out ||
    complain "what does not fit is not said: $(cat large.out)"
fits=$(for i in 1 2 3 4; do cell large.csv $i fits; done | tr '\n' ' ')
[ "$fits" = 'true true false false ' ] || complain "large.csv: fits: $fits"
[ "$(cell large.csv 2 moved_mean_bytes)" = "$(cell all.csv 2 moved_mean_bytes)" ] || complain 'large: other bytes'
[ ${#plot[@]} = 0 ] || grep -q NaN large/memory.dat || complain 'large/memory.dat has values that were not measured'

# --- mistakes ---------------------------------------------------------------------------------------------------------
refuses() { # PATTERN WORD...
    local pattern=$1 code=0
    shift
    timeout -k 5 60 "$meshfold" bench --model tiny "$@" >output 2>error || code=$?
    if [ $code != 2 ] || [ -s output ] || [ "$(wc -l <error)" != 1 ] ||
        ! grep -qE "^meshfold: error: $pattern" error; then
        complain "bench $*: exit $code, not one line like $pattern: $(cat error output)"
    fi
}
refuses 'meshfold bench needs --mesh' --seq 64
refuses '--mesh foo=2: no axis is called "foo"' --mesh foo=2
refuses '--mesh tp=2,exchange=ring: ' --mesh single tp=2,exchange=ring
for list in '64,' ',64' 64,,128 64x 64,1e3 0 -4 64,999999999 99999999999999999999; do
    refuses "--seq $list: expected lengths from 1 to " --mesh single --seq="$list"
done
refuses '--rounds 0: ' --mesh single --rounds 0
refuses '--steps 65: ' --mesh single --steps 65
refuses '--json - and --csv - both' --mesh single --json - --csv -
refuses '--json nosuch/file: nosuch cannot be written' --mesh single --json nosuch/file
echo a >file
[ ${#plot[@]} = 0 ] || refuses '--plot file: not a folder' --mesh single --plot file
refuses 'unknown flag --sqe: did you mean --seq\?' --mesh single --sqe 4

# --- help -------------------------------------------------------------------------------------------------------------
"$meshfold" bench --help >help || complain 'bench --help fails'
for pattern in '^usage: meshfold bench --model' '^  --mesh MESH\.\.\.' '^  --plot DIR ' '^Examples$'; do
    grep -qE -- "$pattern" help || complain "bench --help has no line like $pattern"
done
[ "$(awk '{ if (length > w) w = length } END { print w }' help)" -le 120 ] || complain 'bench --help has too long lines'

# --- under mpiexec ----------------------------------------------------------------------------------------------------
if [ -x "$1/tests/mpi_parity_ranks" ]; then
    source "$2/tests/support/mpi_environment.sh"
    timeout -k 5 120 mpiexec -n 2 "$meshfold" bench --model tiny --threads 1 --rounds 2 --steps 1 --seq 64,128 \
        --mesh tsp=2 tp=2 --csv mpi.csv "${plot[@]/DIR/mpi}" >mpi.out 2>&1 ||
        complain "mpiexec: exit $?: $(cat mpi.out)"
    [ "$(grep -c '^measured .*engine mpi$' mpi.out)" = 1 ] || complain 'mpiexec: not one report'
    [ "$(cell mpi.csv 1 peak_bytes) $(cell mpi.csv 1 moved_mean_bytes)" = \
        "$(cell all.csv 2 peak_bytes) $(cell all.csv 2 moved_mean_bytes)" ] ||
        complain 'mpiexec: other memory or bytes than with threads'
    [ ${#plot[@]} = 0 ] || [ -s mpi/bytes.svg ] || complain 'mpiexec: no figures'
    timeout -k 5 60 mpiexec -n 2 "$meshfold" bench --model tiny --mesh tsp=2 tp=3 >mpi.out 2>&1 &&
        complain 'mpiexec: a mesh of another size runs'
    [ "$(grep -c '^meshfold: error: --mesh tp=3: is 3 ranks, but mpiexec started 2' mpi.out)" = 1 ] ||
        complain "mpiexec: a mesh of another size is not named: $(cat mpi.out)"
fi

[ $failures = 0 ] && echo "bench: all as expected"
exit $((failures > 0))

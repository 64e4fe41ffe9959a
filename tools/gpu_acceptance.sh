#!/usr/bin/env bash
# Does everything hold on this machine's GPU? Seven stages, each with a log and a limit of time, and one page.
#
#     bash tools/gpu_acceptance.sh                         # all of it, about 25 minutes
#     bash tools/gpu_acceptance.sh --quick                 # about 7 minutes
#     bash tools/gpu_acceptance.sh --only environment,smoke
#     PYTHON=python3 PYTHONPATH=/packages bash tools/gpu_acceptance.sh --skip step
#
# Options:
#   --only A,B / --skip A,B   of: environment tests smoke update loader profile step
#   --quick                   fewer repeats and settings
#   --dry-run                 tiny sizes on the CPU: what needs a GPU is said to be skipped
#   --out DIR                 raw results and summary.md (default: build/gpu-acceptance)
#   --photographs DIR         shards for the stages loader and profile (default: data/real-photographs where it exists,
#                             else the drawn photographs of the other stages)
#
# PYTHON names the interpreter (default: .venv/bin/python where it exists, else python3). What a stage left is replaced
# when it is run again; the page is made from all that lies in the folder. Exit codes: 0 all that was run holds; 1
# something does not, or the GPU cannot be used or every smoke run failed, and the rest was not tried; 2 an unusable
# argument.
set -uo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
STAGES=(environment tests smoke update loader profile step)
WORTHLESS=3  # the exit code of a stage behind which no other can tell anything

usage() { sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | grep '^#' | cut -c3-; }
refuse() { echo "error: $1; see --help" >&2; exit 2; }

arguments=("$@") only=all skip='' inside='' SIZE=full OUT=build/gpu-acceptance PHOTOGRAPHS=''
while [ $# -gt 0 ]; do
    case "$1" in
        --only | --skip | --out | --photographs | --inside) [ $# -gt 1 ] || refuse "$1 wants a value" ;;&
        --only) only=$2; shift ;;
        --skip) skip=$2; shift ;;
        --out) OUT=$2; shift ;;
        --photographs) PHOTOGRAPHS=$(realpath "$2"); shift ;;
        --inside) inside=$2; shift ;;  # this script's own: one stage, under its limit
        --quick) SIZE=quick ;;
        --dry-run) SIZE=dry-run ;;
        --help | -h) usage; exit 0 ;;
        *) refuse "unknown argument $1" ;;
    esac
    shift
done
for name in ${only//,/ } ${skip//,/ }; do
    [[ " all ${STAGES[*]} " == *" $name "* ]] || refuse "no stage $name; there are ${STAGES[*]}"
done

OUT="$(mkdir -p "$OUT" && cd "$OUT" && pwd)" || refuse "cannot write to --out"
cd "$ROOT" || exit 2
default_python=python3
[ ! -x .venv/bin/python ] || default_python=$ROOT/.venv/bin/python
PYTHON=${PYTHON:-$default_python}
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false

DRAWN=$OUT-photographs  # outside of what is kept
PROFILE=(--config configs/imagenet_vit_b16_linear.yaml --set data.num_train_samples=null)
STEP=(--model vit_base_patch16_224 --precision bf16 --batch-size 128 --steps 5 --cores "$(nproc)")
# LIMITS: seconds, in the order of STAGES.
case "$SIZE" in
    full)
        NUM_DRAWN=2000 LIMITS=(240 240 420 240 300 420 240) DEVICES=(cpu gpu)
        PROFILE+=(--seconds 1 --repeats 3 --set train.global_batch_size=128)
        STEP+=(--repeats 7)
        ;;
    quick)
        NUM_DRAWN=512 LIMITS=(150 150 180 150 90 150 90) DEVICES=(gpu cpu)
        # Crop and flip alone: a graph with a recipe's operations takes long to build, for every measurement anew.
        PROFILE=(--config configs/photographs_vit_s16.yaml --set data.num_train_samples=null --set optim.warmup=1steps)
        PROFILE+=(--set model.name=vit_base_patch16_224 --set engine.precision=bf16)
        PROFILE+=(--seconds 0.3 --repeats 3 --set train.global_batch_size=128)
        PROFILE+=(--set schedule.kind=steps --set "schedule.keep_rate=[[0, 0.2], [0.5, 0.6]]")
        STEP+=(--repeats 3 --keep-rates 0.2 0.6 1 --ways ours patch_drop_rate)
        ;;
    dry-run)
        export CUDA_VISIBLE_DEVICES=''
        NUM_DRAWN=64 LIMITS=(600 600 600 600 600 600 600) DEVICES=(cpu)
        PROFILE+=(--seconds 0.01 --repeats 1 --set train.global_batch_size=4 --set train.micro_batch_size=4)
        PROFILE+=(--set schedule.kind=constant --set schedule.keep_rate=0.4 --set engine.precision=fp32)
        PROFILE+=(--set "model.options={embed_dim: 48, depth: 1, num_heads: 3}")
        STEP=(--batch-size 2 --repeats 1 --cores 1)
        ;;
esac
if [ -z "$PHOTOGRAPHS" ]; then
    PHOTOGRAPHS=$DRAWN
    if [ "$SIZE" != dry-run ] && [ -e data/real-photographs/dataset.json ]; then PHOTOGRAPHS=data/real-photographs; fi
fi

python() { "$PYTHON" "$@"; }
acceptance() { python -m tools.acceptance "$1" --size "$SIZE" --photographs "${3:-$DRAWN}" --out "$2"; }

# The functions of the stages get the folder that is theirs.

stage_environment() {
    local way compiling=() code=0
    python -m benchmarks.photographs --out "$DRAWN" --num "$NUM_DRAWN" || return
    # On a fresh machine the loops over pixels are compiled meanwhile, each way through them in a process of its own.
    for way in random contrast recipe; do
        python -m tools.acceptance kernels --way "$way" --size "$SIZE" --photographs "$DRAWN" \
            --out "$1/kernels-$way.json" &
        compiling+=($!)
        if [ "$SIZE" = dry-run ]; then wait "$!" || code=1; break; fi
    done
    acceptance environment "$1/environment.json" || code=$?
    if [ "$SIZE" != dry-run ]; then for way in "${compiling[@]}"; do wait "$way" || [ "$code" != 0 ] || code=1; done; fi
    return "$code"
}

stage_tests() {
    local files
    mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
    python -m pytest -m gpu -q --junitxml "$1/junit.xml" "${files[@]}"
}

stage_smoke() { CUBLAS_WORKSPACE_CONFIG=:4096:8 acceptance smoke "$1/smoke.json"; }

stage_update() { acceptance update "$1/update.json"; }

stage_loader() { acceptance loader "$1/loader.json" "$PHOTOGRAPHS"; }

stage_profile() {
    local device classes code=0
    classes=$(python -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["classes"]))' \
        "$PHOTOGRAPHS/dataset.json") || return
    for device in "${DEVICES[@]}"; do
        python -m tools.profile "${PROFILE[@]}" --set "data.train=$PHOTOGRAPHS" --set "data.val=$PHOTOGRAPHS" \
            --set "data.num_classes=$classes" --set "data.device=$device" --json "$1/decoded-on-$device.json" |
            tee "$1/decoded-on-$device.txt" || code=$?
    done
    return "$code"
}

stage_step() { python -m benchmarks.step "${STEP[@]}" --out "$1/step.json"; }

if [ -n "$inside" ]; then
    "stage_$inside" "$OUT/$inside"
    exit
fi

run_stage() {
    local name=$1 limit=$2 folder=$OUT/$1 start=$SECONDS code=0
    rm -rf "$folder" && mkdir "$folder" || return
    echo "== $name, at most $limit s"
    timeout --kill-after=10 "$limit" bash "${BASH_SOURCE[0]}" "${arguments[@]}" --out "$OUT" \
        --photographs "$PHOTOGRAPHS" --inside "$name" \
        >"$folder/log.txt" 2>&1 || code=$?
    printf '{"exit_code": %d, "seconds": %d, "limit_s": %d}\n' "$code" $((SECONDS - start)) "$limit" >"$folder/ended.json"
    if [ "$code" != 0 ]; then tail -5 "$folder/log.txt"; fi
    echo "   $((SECONDS - start)) s, exit code $code"
    return "$code"
}

for number in "${!STAGES[@]}"; do
    name=${STAGES[number]}
    if [[ "$only" != all && ",$only," != *",$name,"* ]] || [[ ",$skip," == *",$name,"* ]]; then continue; fi
    code=0
    run_stage "$name" "${LIMITS[number]}" || code=$?
    if [ "$code" = "$WORTHLESS" ]; then
        echo "what $name found makes the stages behind it worthless; see $OUT/$name/log.txt"
        break
    fi
done
python -m tools.acceptance page --out "$OUT"

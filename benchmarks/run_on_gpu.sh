#!/usr/bin/env bash
# All measurements on a GPU, most valuable first; the limits of the stages add up to 9 minutes. Each stage writes one
# JSON file. A stage with a complete file is skipped, and one that was cut short resumes with what is missing. A stage
# that fails does not stop the others; the exit code is 0 only if all have passed.
#
#     benchmarks/run_on_gpu.sh [OUT_DIR]                  # default: benchmarks/results
#     uv run python benchmarks/make_pages.py              # then writes the pages of benchmarks/results
#
# The repository need not be installed, but these packages must be importable by $PYTHON (default: python3):
#     attrs cattrs einops jaxtyping kornia kornia_rs matplotlib numpy pyyaml rich safetensors scikit-learn scipy torch
#     torchmetrics torchvision typing-extensions pytest pytest-benchmark
# torch.compile needs triton and a C compiler. An existing PYTHONPATH is kept.
#
# Environment:
#     EXML_STAGES       only these stages, by name (default: all), such as "correctness ratios"
#     EXML_SECONDS      the limit of every stage, in seconds (default: each stage's own limit)
#     EXML_WORK         folder for checkpoints and other files that later calls reuse (default: runs/gpu)
#     EXML_COMMIT       the commit, for a copy of the files without their history
#     EXML_DATA         folder of MNIST and CIFAR-10; without it, time to accuracy and the paper's tables are not measured
#     EXML_PAPER_SCALE  share of the paper-scale run's iterations (default: 1)
#     EXML_DEVICE, EXML_SCALE  "cpu" and a number below 1 try the script without a GPU; raise EXML_SECONDS
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:-benchmarks/results}
work=${EXML_WORK:-runs/gpu}
device=${EXML_DEVICE:-cuda}
scale=${EXML_SCALE:-1}
python=${PYTHON:-python3}
mkdir -p "$out" "$work"
out=$(cd "$out" && pwd)
work=$(cd "$work" && pwd)

EXML_COMMIT=${EXML_COMMIT:-$(git describe --always --dirty=+ --exclude='*' 2>/dev/null || echo unknown)}
export EXML_COMMIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
# The profiler leaves a process with CUDA graphs alone when it is over (https://github.com/pytorch/pytorch/pull/112507).
export TEARDOWN_CUPTI=0 DISABLE_CUPTI_LAZY_REINIT=1

# Results name the version of every package, also of one that is not installed but only on the path.
if ! "$python" -c 'import importlib.metadata as m; m.version("exml")' 2>/dev/null; then
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' exml/__init__.py)
    mkdir -p "$work/metadata/exml-$version.dist-info"
    printf 'Metadata-Version: 2.1\nName: exml\nVersion: %s\n' "$version" >"$work/metadata/exml-$version.dist-info/METADATA"
    export PYTHONPATH="$PYTHONPATH:$work/metadata"
fi

if ! "$python" -c "import exml, torch, sys; sys.exit('$device' == 'cuda' and not torch.cuda.is_available())"; then
    echo "exml or its packages cannot be imported, or torch sees no GPU" >&2
    exit 2
fi

failed=()

# stage NAME SECONDS COMMAND...: run a command that writes $out/NAME_$device.json.
stage() {
    local name=$1 seconds=$2
    shift 2
    if [[ -n ${EXML_STAGES:-} && " $EXML_STAGES " != *" $name "* ]]; then
        return
    fi
    local file="$out/${name}_$device.json"
    if whole "$file"; then
        echo "== $name: $file is there"
        return
    fi
    echo "== $name: $(date '+%H:%M:%S'), at most ${EXML_SECONDS:-$seconds} s"
    # SIGTERM first, so that what is written is written; then SIGKILL.
    if timeout --kill-after=5 "${EXML_SECONDS:-$seconds}" "$@" && whole "$file"; then
        echo "== $name: passed, $(date '+%H:%M:%S')"
    else
        echo "== $name: FAILED, $(date '+%H:%M:%S')"
        failed+=("$name")
    fi
}

# whole FILE: it is JSON that says neither that something is missing nor that something failed.
whole() {
    "$python" - "$1" 2>/dev/null <<'PY'
import json, sys
found = json.load(open(sys.argv[1], encoding="utf-8"))
sys.exit(not (found.get("complete", True) and found.get("passed", True)))
PY
}

gpu="$python -u benchmarks/gpu"
common=(--device "$device" --scale "$scale")

stage correctness 90 $gpu/correctness.py "${common[@]}" --out "$out/correctness_$device.json"
stage ratios 40 "$python" -u benchmarks/ratios.py --device "$device" --out "$out/ratios_$device.json"
stage modes 70 $gpu/modes.py "${common[@]}" --out "$out/modes_$device.json"
if [[ -n ${EXML_DATA:-} ]]; then
    stage time_to_accuracy 180 $gpu/reach_accuracy.py "${common[@]}" --work "$work/time_to_accuracy" \
        --out "$out/time_to_accuracy_$device.json"
fi
stage kernels 50 $gpu/kernels.py "${common[@]}" --work "$work/kernels" --out "$out/kernels_$device.json"
stage one_pass 15 $gpu/one_pass.py "${common[@]}" --out "$out/one_pass_$device.json"
stage paper_scale 45 $gpu/paper_scale.py --device "$device" --scale "${EXML_PAPER_SCALE:-$scale}" \
    --work "$work/paper_scale" --out "$out/paper_scale_$device.json"
# Five seeds of every MNIST and CIFAR-10 column take hours; set EXML_STAGES and EXML_SECONDS for them.
if [[ -n ${EXML_DATA:-} ]]; then
    stage reproduction 45 $gpu/paper_tables.py --device "$device" --scale "$scale" --work "$work/reproduction" \
        --out "$out/reproduction_$device.json"
fi

if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi

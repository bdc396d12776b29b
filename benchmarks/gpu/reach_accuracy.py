"""``benchmarks/time_to_accuracy.py`` on this device, with a results file of its own.

    EXML_DATA=... uv run python -u benchmarks/gpu/reach_accuracy.py --work DIR  # on a GPU; resumes after a kill
    uv run python -u benchmarks/gpu/reach_accuracy.py --device cpu --scale 0.01 --scenario digits-nc --work DIR --out F

``--scale`` is that of the straightforward version's budget, which is a tenth of the paper's at 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import time_to_accuracy
from measuring import arguments, commit, prepare

from exml.core.files import write_json

BUDGET = 0.1


def main() -> None:
    """Measure what is not measured yet, and gather."""
    parser = arguments(__doc__, "time_to_accuracy_cuda.json")
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-accuracy"), help="folder for the runs")
    parser.add_argument("--scenario", default="cifar10-joint", choices=time_to_accuracy.SCENARIOS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    prepare(given)
    time_to_accuracy._commit = commit  # files may be without their history
    for seed in given.seeds:
        time_to_accuracy.measure(given.scenario, seed, BUDGET * given.scale, given.device, given.work)
        done = seed == given.seeds[-1]
        write_json(given.out, time_to_accuracy.gather(given.work) | {"complete": done})


if __name__ == "__main__":
    main()

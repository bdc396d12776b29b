"""The baselines of a run, and whether they apply to a scenario."""

from __future__ import annotations

import torch

from exml.baselines import EnsembleAverage, MinEntropy, Oracle, ParameterAverage
from exml.core.errors import BaselineError
from exml.experts import ExpertStream
from exml.protocols import Baseline
from exml.runs.evaluation import evaluate_baseline
from exml.runs.result import BaselineResult
from exml.scenarios import Scenario

BASELINES: dict[str, Baseline] = {
    "Param. Avg.": ParameterAverage(),
    "Ensemble Avg. (logits)": EnsembleAverage(),
    "Ensemble Avg. (probs)": EnsembleAverage("probabilities"),
    "Min. Entropy": MinEntropy(),
    "Oracle": Oracle(),
}
"""By the paper's names, in the order of its Table 2, with the oracle last as the upper bound."""


def baseline_result(name: str, experts: ExpertStream, scenario: Scenario, device: torch.device) -> BaselineResult:
    """The accuracies of a baseline, or the reason why it does not apply."""
    baseline, rules = BASELINES[name], BASELINES[name].ex_model
    reason = _inapplicable(baseline, scenario)
    if reason is None:
        try:
            found = evaluate_baseline(baseline, experts, scenario, device=device)
        except BaselineError as error:
            reason = f"it needs {error.expected}, and there is {error.got}"
        else:
            return BaselineResult(name=name, ex_model=rules, accuracy=found.accuracies, stream_accuracy=found.stream)
    return BaselineResult(name=name, ex_model=rules, reason=reason)


def _inapplicable(baseline: Baseline, scenario: Scenario) -> str | None:
    """Why a baseline does not apply to a scenario, as in Tables 2 and 3; None if it does."""
    if baseline.needs_experience:
        return "the experiences share one test set, so no expert is the right one" if scenario.shared_test else None
    return "there is only one expert, nothing to combine" if len(scenario.experiences) == 1 else None

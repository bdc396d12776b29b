"""
Reading a result
================

``exml.runs.run``, and ``exml run`` on the command line, compare strategies and baselines on the same experts. All
that they measure is in one ``Result``, which is also the file ``result.json``.
"""

import tempfile
from pathlib import Path

import rich

import exml
from exml.runs import ScenarioExperts, accuracy_figure, result_table

# %%
# Two strategies with a tenth of their budget: inverted images and noise.

scenario, folder = "digits-nc:epochs=8", Path(tempfile.mkdtemp())
profile = exml.scenarios.load(scenario).profile()
side_by_side = exml.combiners.SideBySide()
recipes = {"inversion": exml.recipes.default(profile).combiner(side_by_side), "noise": exml.recipes.noise(profile)}
strategies = {name: exml.recipes.at_budget(builder.build(), 0.1) for name, builder in recipes.items()}
result = exml.runs.run(ScenarioExperts(scenario, folder=Path("experts/nc")), strategies, folder)

# %%
# The table has the accuracy on the test images of each experience. *Stream* is that over all of them (Eq. 2), *Forgot*
# the mean loss of accuracy since an experience was learned.

rich.print(result_table(result))

# %%
# Above, the last row of each strategy; below, what happened along the stream. Hatched rows break the constraints of the
# ex-model scenario: they keep all experts, or know which one to use.

accuracy_figure(result, stacked=True)

# %%
# Everything is also there as numbers. Row i of the matrix is the student after experience i, column j the test images
# of experience j.

first = result.strategies[0]
for row in first.accuracy:
    print("  ".join(f"{100 * value:5.1f}" for value in row))

# %%
# The diagnosis tells where accuracy is lost. A student can hardly be better than its target; the distance to the target
# is what its images and its training lack.

audit = first.audit
print(f"target {audit.target:.1%}, student {audit.student:.1%}, best ensemble {audit.ensemble:.1%}")

# %%
# Without any test data, the agreement with the experts on fresh images is a substitute.

print(first.agreement.verdict)
print(first.seconds)

# %%
# The folder of the run keeps the rest: students, pictures, the order of the experts, and what a resumed run needs.

print(*sorted(path.name for path in folder.iterdir()))

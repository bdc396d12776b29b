"""``python -m reproduction``, in the folder ``benchmarks``: the paper's tables and figures measured again."""

import sys

from cyclopts import App, Parameter

from exml.cli import run_app
from reproduction._command import reproduce

app = App(name="reproduction", default_parameter=Parameter(negative=()))
app.default(reproduce)

if __name__ == "__main__":
    sys.exit(run_app(app))

"""exml: learn one model from a stream of other people's trained models, without their data.

Ex-Model continual learning (Carta, Cossu, Lomonaco and Bacciu, arXiv 2112.06511). Equation and section numbers in this
documentation are those of the paper. Everything here is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"

"""xaibench: does a distilled student decide for the same reasons as its teacher?

The public names are listed in `__init__.pyi` and imported when they are first used, so that `import xaibench` is fast.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""A constitution in, an aligned adapter and its evidence out.

>>> from rlaif_dpo import load_recipe, run
>>> finished = run(load_recipe("quickstart"))
>>> finished.report()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaif_dpo.pipeline import Run, run
    from rlaif_dpo.recipe import load_recipe

__all__ = ["Run", "__version__", "load_recipe", "run"]

__version__ = "0.1.0"
_HOMES = {"Run": "rlaif_dpo.pipeline", "run": "rlaif_dpo.pipeline", "load_recipe": "rlaif_dpo.recipe"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import rlaif_dpo` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

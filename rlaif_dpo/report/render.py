"""The templates of the report and of the model card, filled in."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from rlaif_dpo.report import numbers
from rlaif_dpo.report.gaps.ledger import arrow
from rlaif_dpo.report.story import drops, shown
from rlaif_dpo.report.svg import bar

MEASURES = {
    "knowledge": "The fact asked for is right",
    "dangerous_complied": "Dangerous request complied with",
    "dangerous_evaded": "Dangerous request refused without a reason",
    "dangerous_explained": "Dangerous request refused and explained",
    "benign_refused": "Harmless look-alike refused",
}


def render(template: str, facts: Mapping[str, Any]) -> str:
    """The file `template` of `pages/` with `facts`; what goes into HTML is escaped."""
    return _environment().get_template(template).render(facts)


@cache
def _environment() -> Environment:
    """It keeps the templates that it has compiled."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    helpers: Sequence[Callable[..., Any]] = (
        numbers.percent, numbers.points, numbers.interval, numbers.points_interval, numbers.number, numbers.duration,
        numbers.dollars, shown, drops, bar, arrow,
    )  # fmt: skip
    environment.globals.update({helper.__name__: helper for helper in helpers})
    return environment

"""Is this judge fit to label? Measured on gold and planted probes, with a gate at the end."""

from rlaif_dpo.judges.audit.gate import Gate, verdict
from rlaif_dpo.judges.audit.gold import read_gold
from rlaif_dpo.judges.audit.items import Item, view
from rlaif_dpo.judges.audit.page import markdown
from rlaif_dpo.judges.audit.probes import Probe, plant
from rlaif_dpo.judges.audit.result import Audit
from rlaif_dpo.judges.audit.run import audit, measure, questions

__all__ = ["Audit", "Gate", "Item", "Probe", "audit", "markdown", "measure", "plant", "questions", "read_gold", "verdict", "view"]

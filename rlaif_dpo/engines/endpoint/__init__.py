"""The engine on an OpenAI-compatible server."""

from rlaif_dpo.engines.endpoint.engine import EndpointEngine
from rlaif_dpo.engines.endpoint.spending import BudgetSpent, Spending

__all__ = ["BudgetSpent", "EndpointEngine", "Spending"]

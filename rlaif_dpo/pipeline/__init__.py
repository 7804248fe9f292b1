"""Stages, the run directory, and running a recipe from start to end."""

from rlaif_dpo.pipeline.export import Exported, export_run
from rlaif_dpo.pipeline.launch import Launch, launch_of
from rlaif_dpo.pipeline.policy import load_policy
from rlaif_dpo.pipeline.preflight import Plan, plan
from rlaif_dpo.pipeline.rounds import plan_rounds, run, run_rounds
from rlaif_dpo.pipeline.runner import Run, resume_command
from rlaif_dpo.pipeline.state import StageStatus, status
from rlaif_dpo.pipeline.tryout import Tryout, try_recipe

__all__ = [
    "Exported",
    "Launch",
    "Plan",
    "Run",
    "StageStatus",
    "Tryout",
    "export_run",
    "launch_of",
    "load_policy",
    "plan",
    "plan_rounds",
    "resume_command",
    "run",
    "run_rounds",
    "status",
    "try_recipe",
]

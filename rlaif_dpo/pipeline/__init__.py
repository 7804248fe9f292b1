"""Stages, the run directory, and running a recipe from start to end."""

from rlaif_dpo.pipeline.preflight import Plan, plan
from rlaif_dpo.pipeline.runner import Run, resume_command, run
from rlaif_dpo.pipeline.state import StageStatus, status

__all__ = ["Plan", "Run", "StageStatus", "plan", "resume_command", "run", "status"]

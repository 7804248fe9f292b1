"""`rlaif-dpo run`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif_dpo.cli.output import Json, Overrides, RecipeArgument, Root, print_json, print_table
from rlaif_dpo.cli.progress import terminal_progress
from rlaif_dpo.cli.rounds import print_rounds
from rlaif_dpo.errors import UserError

TRUTH = ("adherence", "knowledge", "dangerous_complied", "dangerous_explained", "benign_refused")


def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    from_stage: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Redo from this stage on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed rows of finished stages again.")] = False,
    accelerate: Annotated[
        str | None,
        typer.Option(metavar="ddp", help="Train (20-sft, 40-dpo) on several GPUs, one process each; docs/several-gpus.md."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", help="With --accelerate: how many processes; without, one for each visible GPU.")
    ] = None,
    root: Root = "runs",
    json: Json = False,
) -> None:
    """Run a recipe, from where it stands.

    Finished stages are skipped, half-finished ones resumed, and changed ones redone.
    The stages are 00-prompts, 10-revise, 20-sft, 25-audit, 30-pairs, 40-dpo, 50-evaluate, 55-suites
    (where the recipe asks for suites) and report. With `optimizer: ppo`, `grpo` or `rloo`, 40-reward and
    41-ppo, 41-grpo or 41-rloo stand in for 40-dpo; a reward that is no model needs neither 30-pairs nor 40-reward.
    Of several `rounds`, a stage is named round-2/40-dpo, and a whole round round-2.
    """
    from rlaif_dpo import pipeline
    from rlaif_dpo.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    if processes is not None and accelerate is None:
        raise UserError("--processes says over how many processes --accelerate spreads the training; add --accelerate ddp")
    launch = pipeline.launch_of(accelerate, processes, settings) if accelerate else None
    rounds: dict[str, Any] | None = None
    try:
        with terminal_progress() as progress:
            if settings.iterates:
                rounds = pipeline.run_rounds(settings, root, from_stage, until, progress, retry, launch)
            else:
                done = pipeline.run(settings, root, from_stage, until, progress, retry, launch)
    except KeyboardInterrupt:
        command = pipeline.resume_command(settings, root, until, launch)
        typer.echo(f"\nStopped; what is done is kept. To go on:\n  {command}", err=True)
        raise typer.Exit(130) from None
    if rounds is not None:
        print_json(rounds) if json else print_rounds(rounds)
        if rounds["finished"] and not json:
            typer.echo(f"report: {Path(root) / settings.name / 'report.html'}")
        return
    page = done.path / "report.html"
    if not done.finished():
        rows = [stage.as_row() for stage in done.status()]
        print_json(rows) if json else typer.echo(f"{done.path}: done until {until}")
        return
    found = done.evidence()
    if json:
        print_json(found)
        return
    print_summary(found)
    typer.echo(f"report: {page}")


def print_summary(found: Mapping[str, Any]) -> None:
    """The evidence in a few lines: the policies side by side, the win rates, the health of the training."""
    from rlaif_dpo.report.numbers import interval, number, percent
    from rlaif_dpo.report.story import shown
    from rlaif_dpo.report.suites import suites_sentence

    truth, judge, text = found["truth"], found["judge"], found["text"]
    names = list((text or {}).get("policies", {}))
    table: list[list[str]] = [["", *map(shown, names)]]
    if truth:
        table += [[metric.replace("_", " "), *(percent(truth[name][metric]["value"]) for name in names)] for metric in TRUTH]
    if names:
        table.append(["words per answer", *(number(text["policies"][name]["words"]["mean"], 0) for name in names)])
        print_table(table)
    if found["audit"]:
        agreed, gate = found["audit"]["agreement"]["accuracy"], found["audit"]["gate"]
        failed = [check["name"] for check in (*gate["refused"], *gate["accepted"], *gate["warnings"])]
        share = f"agrees with gold on {percent(agreed['value'])} ({interval(agreed)})" if agreed["n"] else "had no gold"
        typer.echo(f"audit: judge {share}; failed: {', '.join(failed) or 'none'}")
    if found["suites"] and (sentence := suites_sentence(found["suites"], shown)):
        typer.echo(f"suites: {sentence}")
    for pair, rates in (judge or {}).get("comparisons", {}).items():
        later, earlier = pair.split("-")
        rate, equal = rates["pooled"]["win_rate"], rates["pooled"].get("length_controlled")
        controlled = f", at equal length {percent(equal['value'])}" if equal else ""
        typer.echo(f"judge prefers {shown(later)} to {shown(earlier)}: {percent(rate['value'])} ({interval(rate)}){controlled}")
    if found["reward"]:
        typer.echo(f"reward: {found['reward']['verdict']}")
    if found["health"]:
        typer.echo(f"health: {found['health']['verdict']}")
    if found["gaps"]["weakest"]:
        typer.echo(f"gaps: {found['gaps']['finding']}")

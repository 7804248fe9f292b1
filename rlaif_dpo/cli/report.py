"""`rlaif-dpo report`."""

import typer

from rlaif_dpo.cli.output import Json, RunArgument, print_json


def report(run: RunArgument, json: Json = False) -> None:
    """Write a run's report anew; print its evidence."""
    from rlaif_dpo.cli.run import print_summary
    from rlaif_dpo.pipeline import Run

    opened = Run(run)
    found = opened.report()
    if json:
        print_json(found)
        return
    print_summary(found)
    typer.echo(f"report: {opened.path / 'report.html'}")

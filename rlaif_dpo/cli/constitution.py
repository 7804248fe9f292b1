"""`rlaif-dpo constitution`."""

from dataclasses import asdict
from typing import Annotated

import typer

from rlaif_dpo.cli.output import Json, print_json, print_table

constitution = typer.Typer(help="Constitutions: list, check, print.", no_args_is_help=True)

Document = Annotated[str, typer.Argument(metavar="CONSTITUTION", help="A shipped one's name or a file.", show_default=False)]


@constitution.command("ls")
def list_shipped(json: Json = False) -> None:
    """List the shipped constitutions."""
    from rlaif_dpo.constitution import load_constitution, shipped_constitutions

    found = {name: load_constitution(path) for name, path in shipped_constitutions().items()}
    if json:
        print_json([{"name": name, "principles": [p.id for p in document.principles]} for name, document in found.items()])
    else:
        print_table([(name, len(document.principles), document.description.split("\n")[0]) for name, document in found.items()])


@constitution.command("lint")
def lint(name: Document, json: Json = False) -> None:
    """What is wrong with a constitution.

    Ends with code 1 where an error would stop a run.
    """
    from rlaif_dpo.constitution import lint as findings_of
    from rlaif_dpo.constitution import load_constitution

    document = load_constitution(name)
    findings = findings_of(document)
    if json:
        print_json([asdict(finding) for finding in findings])
    for finding in () if json else findings:
        typer.echo(f"{finding.level}: {finding.sentence}")
    if not findings and not json:
        typer.echo(f"{document.name}: {len(document.principles)} principles, nothing to remark")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


@constitution.command("show")
def show(
    name: Document,
    principle: Annotated[
        list[str] | None, typer.Argument(metavar="[PRINCIPLE]...", help="Only these.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Print a constitution, derived wordings and all."""
    from rlaif_dpo.constitution import dump_lock, load_constitution, only

    document = load_constitution(name)
    if principle:
        document = only(document, *principle)
    if json:
        print_json(asdict(document))
    else:
        typer.echo(dump_lock(document), nl=False)

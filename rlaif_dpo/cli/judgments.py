"""`rlaif-dpo judgments`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif_dpo.cli.output import Json, Root, print_json, print_table
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import write_jsonl

if TYPE_CHECKING:
    from rlaif_dpo.engines.store import CallStore

judgments = typer.Typer(help="Bought judgments: list, show, export, prune.", no_args_is_help=True)


@judgments.command("ls")
def list_models(root: Root = "runs", json: Json = False) -> None:
    """What the store holds, by model."""
    with _store(root) as store:
        found = store.summaries()
    if json:
        print_json([asdict(summary) for summary in found])
        return
    print_table(
        [("model", "server", "rows", "outcomes", "tokens", "cost", "last")]
        + [
            (
                summary.model,
                summary.base_url,
                summary.rows,
                ", ".join(
                    f"{outcome} {rows}"
                    for outcome, rows in sorted(summary.outcomes.items(), key=lambda item: (item[0] != "ok", -item[1]))
                ),
                summary.tokens,
                _cost(summary.cost_usd, summary.priced, summary.rows),
                summary.last[:10],
            )
            for summary in found
        ]
    )


@judgments.command("show")
def show(
    prefix: Annotated[str, typer.Argument(metavar="ID", help="The start of a key or of a row's id.", show_default=False)],
    root: Root = "runs",
    json: Json = False,
) -> None:
    """Print calls: what was asked, what came back, what it took."""
    with _store(root) as store:
        calls = store.find(prefix)
    if json:
        print_json([call.as_row() for call in calls])
        return
    if not calls:
        raise UserError(f'No judgment\'s key or id begins with "{prefix}"; rlaif-dpo judgments export lists them all')
    for call in calls:
        usage, usd = call.spent.usage, call.spent.cost_usd
        typer.echo(f"{call.key}  {call.owner}  sample {call.sample}  {call.outcome}  {call.created_at}")
        typer.echo(f"{call.model} at {call.base_url}, {', '.join(f'{k} {v}' for k, v in call.parameters.items())}")
        for message in call.messages:
            typer.echo(f"[{message['role']}] {message['content']}")
        if call.reasoning:
            typer.echo(f"[reasoning] {call.reasoning}")
        typer.echo(f"[reply] {call.error or call.text}")
        if call.option_logprobs is not None:
            typer.echo(f"log-probabilities {', '.join(f'{p:.4f}' for p in call.option_logprobs)}, mass {call.mass:.4f}")
        price = "price unknown" if usd is None else f"${usd:.6f}"
        typer.echo(
            f"{usage.prompt} + {usage.completion} tokens, {price}, {call.spent.latency_s:.1f} s, {call.spent.attempts} requests\n"
        )


@judgments.command("export")
def export(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="The new JSONL file.", show_default=False)], root: Root = "runs"
) -> None:
    """Write every call to a JSONL file."""
    if to.exists():
        raise UserError(f"{to} is there already; remove it or give another name")
    with _store(root) as store:
        write_jsonl(to, store.export())
    typer.echo(to)


@judgments.command("prune")
def prune(
    model: Annotated[str | None, typer.Option(help="Only those of this model.", show_default=False)] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Only those bought before.", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that would be asked again anyway.")] = False,
    probes: Annotated[bool, typer.Option("--probes", help="Forget what servers can do: ask them anew.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are counted.")] = False,
    root: Root = "runs",
) -> None:
    """Remove calls from the store; another run buys them again."""
    if probes:
        with _store(root) as store:
            typer.echo(f"{store.forget_notes()} forgotten")
        return
    if model is None and older_than is None and not failed:
        raise UserError("prune what? Give --model, --older-than DAYS, --failed or --probes")
    with _store(root) as store:
        count = store.prune(model, older_than, failed, dry_run=not yes)
    typer.echo(f"{count} removed" if yes else f"{count} would be removed; --yes removes them")


@contextmanager
def _store(root: str) -> Iterator["CallStore"]:
    from rlaif_dpo.engines.store import STORE, CallStore

    path = Path(root) / STORE
    if not path.exists():
        raise UserError(f"There is no judgment store {path}: a run with a judge makes it, --root names another folder of runs")
    store = CallStore(path)
    try:
        yield store
    finally:
        store.close()


def _cost(usd: float, priced: int, rows: int) -> str:
    if not priced:
        return "unknown"
    return f"${usd:.4f}" if priced == rows else f"${usd:.4f} for {priced} rows"

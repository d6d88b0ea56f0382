"""`backstay demo`."""

import asyncio
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

if TYPE_CHECKING:
    from .screen import Screen
    from .story import Options, Report


def commands(
    docs: Annotated[
        Path | None, typer.Option(help="A folder of Markdown or text.", show_default="the repository's docs")
    ] = None,
    ask: Annotated[list[str] | None, typer.Option(help="A question; may be repeated.")] = None,
    model: Annotated[
        str | None, typer.Option(help="provider:model.", show_default="OpenAI or Ollama when there, else simulated")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder with database and logs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a report instead of the story.")] = False,
) -> None:
    """Show the main job: ingest documents, ask questions, kill the worker, watch the run resume, verify."""
    from .screen import Screen  # late: every command imports this module, and no other needs what the story needs
    from .story import Options

    options = Options(docs, tuple(ask or ()), model, keep)
    report = asyncio.run(_interruptible(options, Screen(quiet=as_json)))
    if as_json:
        sys.stdout.write(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2, default=str).decode() + "\n")
    if report.failures:
        raise typer.Exit(1)


async def _interruptible(options: "Options", screen: "Screen") -> "Report":
    """Ctrl-C, SIGTERM and a closed terminal end the demo in order, so that nothing of it stays behind."""
    from .story import tell

    telling = asyncio.ensure_future(tell(options, screen))
    received: list[int] = []
    loop = asyncio.get_running_loop()

    def end(number: int) -> None:
        if not received:  # a second signal changes nothing: the way out is already being taken
            received.append(number)
            telling.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await telling
    except asyncio.CancelledError:
        if not received:
            raise
        typer.echo("\nbackstay demo: stopped; its processes and its folder are gone", err=True)
        raise typer.Exit(128 + received[0]) from None

"""The command `tailrace`: its commands in the order of `tailrace --help`, and what becomes of errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from processor.cli.answer import answer
from processor.cli.cancel import cancel
from processor.cli.dead import dead
from processor.cli.demo import demo
from processor.cli.doctor import doctor
from processor.cli.emit import emit
from processor.cli.exec import exec_
from processor.cli.exits import DONE, INTERRUPTED, Usage, exit_code
from processor.cli.gateway import gateway
from processor.cli.groups import groups
from processor.cli.namespaces import namespaces
from processor.cli.options import EPILOG, Options, hoist, own_version
from processor.cli.output import ClosedPipe, Output, forget_stdout
from processor.cli.replay import replay
from processor.cli.runs import runs
from processor.cli.schedules import schedules
from processor.cli.settings import settings
from processor.cli.ship import ship
from processor.cli.show import show
from processor.cli.start import start
from processor.cli.tail import tail
from processor.cli.up import up
from processor.cli.worker import worker
from processor.core.errors import TailraceError
from processor.observe.logs import configure

__all__ = ["app", "main", "run"]

# what the parser raises. typer carries its own copy of click since 0.26, so the class is found through a subclass
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

EXITS = (
    "Exit codes: 0 done, 1 what was asked about failed, 2 wrong usage or input, 3 not found, 4 refused by its state, "
    "5 server unusable, 6 not allowed, 75 full: try again, 130 interrupted. exec ends as its command did."
)

app = typer.Typer(
    name="tailrace",
    help="Durable, resumable, real-time feeds of what AI agents do. First: `tailrace demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EXITS,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tailrace {own_version()}")
        raise typer.Exit


@app.callback()
def _all(
    ctx: typer.Context,
    namespace: Annotated[str | None, typer.Option(help="Instead of TAILRACE_NAMESPACE.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Instead of TAILRACE_REDIS_URL.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as in a pipe.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="As NO_COLOR=1.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No talk on stderr, only errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="What happens inside.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before destroying.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")] = False,
) -> None:
    ctx.obj = Options(
        namespace=namespace,
        redis_url=redis_url,
        json=json,
        color=not no_color,
        quiet=quiet,
        verbose=verbose,
        yes=yes,
    )
    # stdout is for data; what servers have to tell is their commands' business
    configure("auto", level="INFO" if verbose else "WARNING", stream=sys.stderr)


_PANELS = {
    "Begin": (demo, up, doctor, settings),
    "Run": (worker, gateway),
    "Produce": (start, emit, exec_, ship),
    "Watch": (runs, show, tail, cancel, answer),
    "Debug": (replay,),
}
for panel, commands in _PANELS.items():
    for command in commands:
        # the words behind exec's program are the program's
        own_words = {"allow_interspersed_args": False} if command is exec_ else {}
        name = command.__name__.rstrip("_")
        app.command(name, epilog=EPILOG, rich_help_panel=panel, context_settings=own_words)(command)
app.add_typer(schedules, name="schedules", rich_help_panel="Operate")
app.add_typer(dead, name="dead", rich_help_panel="Operate")
app.add_typer(groups, name="groups", rich_help_panel="Operate")
app.add_typer(namespaces, name="namespaces", rich_help_panel="Operate")


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with the code of `tailrace --help`'s last lines."""
    words = hoist(sys.argv[1:] if argv is None else argv)
    sys.exit(run(words))


def run(words: list[str]) -> int:
    """One command in this process; its exit code. words: what hoist gave."""
    # what the root callback would make of them, for errors that come before it has run
    out = Output(Options(json="--json" in words, color="--no-color" not in words))
    try:
        code = get_command(app).main(args=words, prog_name="tailrace", standalone_mode=False)
    except TailraceError as error:
        out.error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ClosedPipe:
        forget_stdout()
        return DONE
    except typer.Abort:
        return INTERRUPTED
    except _UsageError as error:
        return _tell_usage(out, error, words)
    return code if isinstance(code, int) else DONE


def _tell_usage(out: Output, error: Exception, words: Sequence[str]) -> int:
    """A command line that cannot be understood: what is wrong, and where help is."""
    context = getattr(error, "ctx", None)
    commands = getattr(get_command(app), "commands", {})
    command = next((f"tailrace {word}" for word in words if word in commands), "tailrace")
    path = context.command_path if context is not None else command  # click leaves it out where a value is missing
    message = str(getattr(error, "format_message", lambda: error)()).strip()
    if not message:  # no arguments at all: the help has been printed
        return exit_code(Usage())
    out.error(Usage(message, remedy=f"{path} --help"))
    return exit_code(Usage())


if __name__ == "__main__":
    main()

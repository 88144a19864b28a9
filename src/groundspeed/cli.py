"""The command line: registers the commands, prints errors as one line, sets the exit code.

Exit codes: 0 success · 1 the command ran, but a check did not pass · 2 bad input, or this machine
cannot do what was asked · 70 an internal error · 130 Ctrl-C. ``fleet healthcheck`` and ``fleet
screen`` use the codes of Nagios instead. Each command imports its libraries when it runs, so
``--help`` is fast.
"""

import io
import os
import sys
from typing import Annotated

import typer

from groundspeed import __version__
from groundspeed.commands.audit import audit_command
from groundspeed.commands.backtest import backtest_command
from groundspeed.commands.calibrate import calibrate_command
from groundspeed.commands.compare import compare_command
from groundspeed.commands.doctor import doctor_command
from groundspeed.commands.estimate import estimate_command
from groundspeed.commands.lists import gpus_command, models_command
from groundspeed.commands.plan import plan_command
from groundspeed.commands.profile import profile_app
from groundspeed.commands.report import report_command
from groundspeed.commands.run import run_command
from groundspeed.commands.verify import verify_command
from groundspeed.extras import missing_library
from groundspeed.fleet_commands.app import fleet_app
from groundspeed.measuring.all_devices import compare_isolated_command
from groundspeed.profiles.errors import InputError, PhysicsError, one_line

INTERRUPTED = 130

INTERNAL = 70
"""Exit code of a prediction that would break physics (EX_SOFTWARE of sysexits.h)."""

app = typer.Typer(
    name="groundspeed",
    help="Measure GPUs, fit cost models to the timings, predict LLM serving speed from them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: groundspeed run",
)
app.command("run")(run_command)
app.command("calibrate")(calibrate_command)
app.command("estimate")(estimate_command)
app.command("plan")(plan_command)
app.command("audit")(audit_command)
app.command("compare")(compare_command)
app.command("backtest")(backtest_command)
app.command("report")(report_command)
app.command("doctor")(doctor_command)
app.command("gpus")(gpus_command)
app.command("models")(models_command)
app.command("verify")(verify_command)
app.command("compare-isolated", hidden=True)(compare_isolated_command)
app.add_typer(profile_app, name="profile")
app.add_typer(fleet_app, name="fleet")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"groundspeed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version of groundspeed and exit.",
        ),
    ] = False,
) -> None:
    """Measure GPUs, fit cost models to the timings, predict LLM serving speed from them."""


def main() -> None:
    """Run the command line; print any error as one line and exit with the documented code."""
    code: object = 0
    for stream in (sys.stdout, sys.stderr):
        # A terminal of ASCII shows a bar as question marks, which is better than a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except PhysicsError as error:
        print(
            f"groundspeed: internal error, this prediction would break physics: {error}; please "
            "report this line",
            file=sys.stderr,
        )
        sys.exit(INTERNAL)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # e.g. "groundspeed ... | head": not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except ModuleNotFoundError as error:
        if (remedy := missing_library(error)) is None:
            raise
        _fail(remedy)
    except MemoryError as error:
        _fail(f"out of memory ({error or 'the operating system refused to allocate more'})")
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}")
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None or not hasattr(error, "exit_code"):
            raise  # a bug: the traceback is needed for the bug report
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message())
            sys.exit(2)
        _fail(f"{message()} (see: groundspeed --help)")
    if code == INTERRUPTED:
        print("groundspeed: interrupted; the measurements so far are kept", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print(f"groundspeed: {one_line(message)}", file=sys.stderr)
    sys.exit(bad_input_code(sys.argv[1:]))


def bad_input_code(arguments: list[str]) -> int:
    """Return the exit code for bad input: 2, except where 2 would mean a failed GPU.

    ``fleet healthcheck`` and ``fleet screen`` return 3 (UNKNOWN in Nagios). A Slurm prolog returns
    0, because Slurm drains a node whose prolog fails.

    >>> bad_input_code(["estimate"]), bad_input_code(["fleet", "healthcheck", "--prolog"])
    (2, 0)
    """
    if arguments[:2] == ["fleet", "healthcheck"]:
        return 0 if "--prolog" in arguments else 3
    return 3 if arguments[:2] == ["fleet", "screen"] else 2

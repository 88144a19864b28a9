"""Update the program's output in the documentation, and the JSON schemas in ``docs/schema``.

A page marks each place for output with a comment:

    <!-- output: groundspeed estimate qwen2.5-32b --gpu h20 -->
    <!-- measured: groundspeed run -->

The code block after the comment is replaced. An ``output`` block is the same on every machine, and
a test compares the page with it. A ``measured`` block depends on the machine and is updated only by
this script.

    python scripts/regenerate_docs.py            all blocks (takes some minutes)
    python scripts/regenerate_docs.py --output   only the output blocks
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md", "docs/measured.md", "docs/laws.md", "docs/accuracy.md", "docs/deepseek-r1.md",
    "docs/fleet.md", "docs/tutorial.md", "docs/zh/tutorial.md",
)  # fmt: skip
MARK = re.compile(
    r"(?P<head><!-- (?P<kind>output|measured): (?P<command>[^\n]+?) -->\n```[a-z]*\n)"
    r"(?P<body>.*?)(?P<foot>```\n)",
    re.DOTALL,
)


def run(command: str) -> str:
    """Run a command, and return its output for a terminal of 100 columns without colours."""
    with tempfile.TemporaryDirectory() as folder:
        reference = os.environ.get("GROUNDSPEED_REFERENCE", "../shared/reference")
        words = shlex.split(command.replace("$GROUNDSPEED_REFERENCE", reference))
        if words[0] == "groundspeed":
            words = ["-m", *words]
        elif words[:1] == ["python"] and words[1].startswith("benchmarks/"):
            words = words[1:]
        else:
            raise SystemExit(
                f"'{command}' is not allowed: only groundspeed and python benchmarks/... are run"
            )
        done = subprocess.run(
            [sys.executable, "-P", *words],
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "100", "XDG_DATA_HOME": folder, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1, 2) or (done.returncode == 2 and not done.stdout):
        raise SystemExit(f"{command}: {done.stderr}")
    lines = done.stdout.replace(folder, "~/.local/share").splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def regenerated(text: str, *, kinds: tuple[str, ...]) -> str:
    """Return a page with its blocks of the given kinds replaced by the current output."""

    def replace(match: re.Match[str]) -> str:
        if match["kind"] not in kinds:
            return match[0]
        return match["head"] + run(match["command"]) + match["foot"]

    return MARK.sub(replace, text)


def schemas() -> Iterator[tuple[str, str]]:
    """Yield the file name and text of each published JSON schema."""
    from groundspeed.estimator.backtest.backtest import RowResult, Summary
    from groundspeed.estimator.decisions.audit import Audit
    from groundspeed.estimator.decisions.compare import ServingComparison
    from groundspeed.estimator.decisions.naive_method import NaiveEstimate
    from groundspeed.estimator.decisions.plan_records import Plan
    from groundspeed.estimator.serving.pools import Disaggregated
    from groundspeed.estimator.serving.workload import Prediction
    from groundspeed.fleet.health.baseline import Baseline
    from groundspeed.fleet.health.node_health import Health
    from groundspeed.fleet.history.changes import History
    from groundspeed.fleet.screen.findings import Screening
    from groundspeed.profiles.datasheet import DeviceSpec
    from groundspeed.profiles.difference import ProfileComparison
    from groundspeed.profiles.schema import Profile
    from groundspeed.verify.verification import Verification

    for model in (
        Profile, DeviceSpec, Prediction, NaiveEstimate, Verification, ProfileComparison,
        Disaggregated, Summary, RowResult, Plan, Audit, ServingComparison,
        Screening, Baseline, Health, History,
    ):  # fmt: skip
        text = json.dumps(model.model_json_schema(), indent=1, sort_keys=True) + "\n"
        yield f"{model.__name__}.json", text


def cli_reference() -> str:
    """Return the page of all commands and their options, made from the help texts."""
    import typer

    from groundspeed.cli import app

    root = typer.main.get_command(app)
    lines = ["# Commands", "", "Every command and its options, generated from the help texts.", ""]

    def describe(name: str, command: Any) -> None:  # noqa: ANN401
        paragraphs = (command.help or "").strip().split("\n\n")
        lines.extend([f"## {name}", ""])
        for part in paragraphs:
            text = " ".join(part.split())
            if text.startswith("Example: "):
                lines.extend(["```sh", text.removeprefix("Example: "), "```", ""])
            else:
                lines.extend([text, ""])
        rows = []
        for p in command.params:
            if p.name == "help" or getattr(p, "hidden", False):
                continue
            names = ", ".join(f"`{o}`" for o in (*p.opts, *p.secondary_opts))
            argument = p.param_type_name == "argument"
            shown = f"`{p.name}`" if argument else names
            help_text = " ".join((getattr(p, "help", "") or "").split()).replace("|", "\\|")
            default = "" if p.default in (None, False, "", ()) or argument else f"`{p.default}`"
            rows.append(f"| {shown} | {help_text} | {default} |")
        if rows:
            lines.extend(["| option | meaning | default |", "|---|---|---|", *rows, ""])

    def walk(prefix: str, group: Any) -> None:  # noqa: ANN401
        for name, command in group.commands.items():
            if command.hidden:
                continue
            full = f"{prefix} {name}"
            if hasattr(command, "commands"):
                walk(full, command)
            else:
                describe(full, command)

    walk("groundspeed", root)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Rewrite pages, schemas and the command reference in place."""
    kinds = ("output",) if "--output" in sys.argv else ("output", "measured")
    for page in PAGES:
        path = ROOT / page
        path.write_text(regenerated(path.read_text(encoding="utf-8"), kinds=kinds))
        print(f"regenerated {page}")
    folder = ROOT / "docs" / "schema"
    folder.mkdir(exist_ok=True)
    for name, text in schemas():
        (folder / name).write_text(text)
    (ROOT / "docs" / "reference" / "cli.md").write_text(cli_reference(), encoding="utf-8")
    print("regenerated docs/schema and docs/reference/cli.md")


if __name__ == "__main__":
    main()

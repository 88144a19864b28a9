"""The documentation: every shown command parses, every link has a target, every page opens."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from playwright.sync_api import Browser

from groundspeed.cli import app

BLOCK = re.compile(r"^```(?P<kind>[a-z]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(groundspeed [^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
ELIDED = ("...", "MODEL", "NAME", "FILE", "TOOL", "PROFILE", "|", "list", "NODE")
"""An inline command with one of these placeholders is not a complete command line; skip it."""


def pages(root: Path) -> list[Path]:
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def shown_commands(text: str) -> list[str]:
    """Return the ``groundspeed`` commands in code blocks, output markers and inline code."""
    commands = re.findall(r"<!-- (?:output|measured): (groundspeed [^\n]+?) -->", text)
    for block in BLOCK.finditer(text):
        if block["kind"] in ("sh", "text"):
            body = block["body"].replace("\\\n", " ")
            lines = [line.strip().removeprefix("exec ") for line in body.splitlines()]
            commands += [
                line for line in lines if line.startswith("groundspeed ") and line[-1] != ","
            ]
    commands += [c for c in INLINE.findall(text) if not any(word in c for word in ELIDED)]
    return commands


class NoSuchCommand(Exception):
    """Raised for a command line with an unknown command or option."""


def parse(command: str) -> None:
    """Parse a command line without running it.

    Raises
    ------
    NoSuchCommandError
        If the command or one of its options does not exist.
    """
    words = shlex.split(command.split(" | ")[0], comments=True)[1:]
    at: Any = typer.main.get_command(app)
    context = at.context_class(at, info_name="groundspeed")
    while hasattr(at, "commands"):
        word = words.pop(0) if words else ""
        if word.startswith("--"):
            return  # an option of the program itself
        if word not in at.commands:
            raise NoSuchCommand(f"no command '{word}'")
        at = at.commands[word]
        context = at.context_class(at, info_name=word, parent=context)
    try:
        at.make_parser(context).parse_args(words)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        raise NoSuchCommand(str(error)) from error


def test_every_command_in_the_documentation_parses(root: Path) -> None:
    """All commands are parsed with their options; test_docs.py runs those with shown output."""
    count = 0
    for page in pages(root):
        for command in shown_commands(page.read_text(encoding="utf-8")):
            try:
                parse(command)
            except NoSuchCommand as error:
                pytest.fail(f"{page.name}: {command}: {error}")
            count += 1
    assert count > 60


def test_parse_refuses_an_unknown_command_and_an_unknown_option() -> None:
    for wrong in ("groundspeed estimat x", "groundspeed fleet screen x --modell y"):
        with pytest.raises(NoSuchCommand):
            parse(wrong)


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


def test_every_local_link_in_the_documentation_has_a_target(root: Path) -> None:
    for page in pages(root):
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        for target in LINK.findall(text):
            if target.startswith(("http:", "https:", "mailto:")):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            if anchor and there.suffix == ".md":
                assert anchor in anchors(there.read_text(encoding="utf-8")), (
                    f"{page.name}: {target}"
                )


def test_chinese_tutorial_shows_only_commands_of_the_english_one(root: Path) -> None:
    english, chinese = (
        [shlex.split(c, comments=True)
         for c in shown_commands((root / "docs" / name).read_text(encoding="utf-8"))]
        for name in ("tutorial.md", "zh/tutorial.md")
    )  # fmt: skip
    assert [c for c in chinese if c not in english] == []
    assert len(chinese) > 6


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(folder)],
        cwd=root, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.slow
def test_site_opens_in_a_browser_without_errors_or_external_requests(
    site: Path, browser: Browser
) -> None:
    """Four pages open without a JavaScript error and without a request to another host."""
    page = browser.new_page()
    said: list[str] = []
    requested: list[str] = []
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: requested.append(r.url))
    for name in ("index", "tutorial/index", "reference/api/index", "zh/tutorial/index"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.locator("h1").count() == 1
        assert not re.search(r"\$\{|\{\{", page.locator("article").inner_text())
    assert said == []
    assert [u for u in requested if not u.startswith(("file:", "data:"))] == []
    page.goto((site / "reference/api/index.html").as_uri())
    assert "sweep" in page.locator("article").inner_text()
    page.close()

r"""Undo what launchers, schedulers and people add to the lines of a log.

``mpirun --tag-output`` writes ``[1,0]<stdout>:`` before each line, ``srun --label`` a rank,
``kubectl logs --timestamps`` a time, some launchers ``[0]`` before every piece of output, and issue
trackers quote and indent. None of it belongs to the output of a benchmark.

>>> plain_line("[1,0]<stdout>:#  Rank  0 on n001"), plain_line(" 3: 1048576 262144 float")
('#  Rank  0 on n001', '1048576 262144 float')
"""

import re
from collections.abc import Iterator

TAGS = (
    re.compile(r"^\s*\[\d+,\d+\]\s*<std(?:out|err|diag)>:\s?"),  # mpirun --tag-output
    re.compile(r"^\s*\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]?\d*(?:Z|[+-]\d\d:?\d\d)?\s?"
               r"(?:std(?:out|err) [FP] )?"),
    re.compile(r"^\s*\[\d{4}-\d\d-\d\d[T ][\d:.,]+\]\s?"),
    re.compile(r"^\s*\d+:(?=\s|$)\s?"),  # srun --label
    re.compile(r"^\s*\[\d+\](?=\s)\s?"),  # a launcher's rank
    re.compile(r"^\s*(?:\([\w.-]+ pid=\d+\)|\[pod/[^\]]+\])\s?"),  # Ray, kubectl logs --prefix
    re.compile(r"^\s*[A-Za-z][\w.-]*:\s(?=\s*(?:#|\d+\s+\d+\s))"),  # pdsh, docker compose
    re.compile(r"^\s*[A-Za-z][\w.-]*\s+\|\s(?=\s*(?:#|\d+\s+\d+\s))"),
    re.compile(r"^\s*>\s?"),  # quoted in a message
)  # fmt: skip
"""Patterns of what stands before a line; they may be nested, so each is tried again."""

COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def plain_line(line: str) -> str:
    """Return a line as the program wrote it, without leading spaces."""
    line = COLOUR.sub("", line).rstrip()
    changed = True
    while changed:
        changed = False
        for tag in TAGS:
            shorter = tag.sub("", line, count=1)
            if shorter != line:
                line, changed = shorter, True
    return line.strip()


def plain_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the plain text of each line of a log; fences of markdown are left out.

    A carriage return ends a line too: progress bars are written over each other with it.
    """
    for number, whole in enumerate(text.split("\n"), 1):
        for line in whole.split("\r"):
            plain = plain_line(line)
            if plain and not plain.startswith("```"):
                yield number, plain

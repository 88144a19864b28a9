"""Parse the options of ``groundspeed estimate`` that are more than a number."""

import re
from pathlib import Path

from groundspeed.estimator.decisions.objective import parse_limits
from groundspeed.profiles.errors import InputError

Measured = dict[int, dict[str, float]]
"""Measured metrics by concurrency, in seconds and tokens/s."""


def parse_concurrency(text: str, load: str = "closed") -> tuple[int, ...]:
    """Parse a list of concurrencies such as ``1,2,4..128``; ``a..b`` doubles from a up to b.

    >>> parse_concurrency("1,4..32")
    (1, 4, 8, 16, 32)
    """
    where = "--batch" if load == "static" else "--concurrency"
    values: list[int] = []
    for part in text.split(","):
        ends = part.strip().split("..")
        try:
            numbers = [int(end) for end in ends]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or any(not 1 <= n <= 1_000_000 for n in numbers):
            raise InputError(
                f"'{part}' is not a whole number from 1 to 1,000,000",
                where=where,
                remedy="give a number" if load == "static" else "give a list such as 1,2,4..128",
            )
        if numbers[0] > numbers[-1]:
            raise InputError(
                f"'{part}' ends below its start",
                where="--concurrency",
                remedy=f"give {numbers[-1]}..{numbers[0]}",
            )
        value = numbers[0]
        while value < numbers[-1]:
            values.append(value)
            value *= 2
        values.append(numbers[-1])
    return tuple(dict.fromkeys(values))


RATE = re.compile(r"([\d.]+(?:e\d+)?)\s*([kKMGT]?)([bB])(?:it|yte)?s?(?:/s|ps)", re.ASCII)
PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def parse_rate(text: str | None, where: str) -> float | None:
    """Parse the rate of a link to bytes per second; None gives None.

    Raises
    ------
    InputError
        If it is not a number with a unit that says bits or bytes.

    Examples
    --------
    >>> parse_rate("400Gb/s", "--inter-node"), parse_rate("50 GB/s", "--inter-node")
    (50000000000.0, 50000000000.0)
    """
    if text is None:
        return None
    found = RATE.fullmatch(text.strip())
    if found is None:
        raise InputError(
            f"'{text}' is no rate: it needs a unit of bits (Gb/s) or bytes (GB/s)",
            where=where,
            remedy="give a rate such as 400Gb/s or 50GB/s",
        )
    number, prefix, unit = found.groups()
    return float(number) * PREFIXES[prefix] * (0.125 if unit == "b" else 1.0)


def parse_slo(text: str | None) -> tuple[float, float] | None:
    """Parse limits in ms such as ``ttft=500,tpot=50`` to (TTFT, TPOT) in seconds.

    A limit that is not given is infinite. None gives None.

    Raises
    ------
    InputError
        If a part is not ``ttft=NUMBER`` or ``tpot=NUMBER``.
    """
    if text is None:
        return None
    limits = {"ttft": float("inf"), "tpot": float("inf")}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            limits[name.lower()] = float(value.lower().removesuffix("ms")) * 1e-3
        except ValueError:
            name = ""
        if not limits.get(name.lower(), 1.0) > 0.0:
            raise InputError(f"the limit '{part}' must be above 0 ms", where="--slo")
        if name.lower() not in ("ttft", "tpot"):
            known = parse_limits(part) if "_p" in name else ()
            raise InputError(
                f"'{part}' is not a limit on ttft or tpot",
                where="--slo",
                remedy="here each request must keep a limit, and goodput counts those that do; "
                "plan takes percentiles"
                if known
                else "give limits in ms, such as ttft=500,tpot=50",
            )
    return limits["ttft"], limits["tpot"]


def prices_of(prices: list[float] | None, gpus: int) -> tuple[float | None, ...]:
    """Return the price of each GPU: one for all, one for each, or none.

    Raises
    ------
    InputError
        If there is another number of prices.
    """
    if not prices:
        return (None,) * gpus
    if len(prices) not in (1, gpus):
        raise InputError(
            f"{len(prices)} prices for {gpus} GPUs",
            where="--price",
            remedy="give --price once, or once for each --gpu in the same order",
        )
    return tuple(prices) if len(prices) == gpus else (prices[0],) * gpus


def parse_pools(text: str | None) -> tuple[int, int] | None:
    """Parse ``2+6`` to the numbers of prefill and decode replicas (2, 6); None gives None.

    Raises
    ------
    InputError
        If the text is not two whole numbers joined by a plus sign.
    """
    if text is None:
        return None
    first, plus, second = text.partition("+")
    if not (plus and first.strip().isdigit() and second.strip().isdigit()):
        raise InputError(
            f"'{text}' is not of the form PREFILL+DECODE",
            where="--prefill-decode",
            remedy="give two numbers of replicas, such as 2+6",
        )
    return int(first), int(second)


def read_measured(path: Path) -> Measured:
    """Read measurements by concurrency from a CSV file with the columns of ``backtest``.

    ``batch_or_concurrency`` (or ``concurrency``) is required in every row; ``ttft_ms``,
    ``tpot_ms``, ``output_tok_s`` and ``total_tok_s`` are optional.

    Raises
    ------
    InputError
        If the concurrency is missing or a value is not a number.
    """
    from groundspeed.profiles.files import read_rows

    rows: Measured = {}
    for row in read_rows(path):
        try:
            concurrency = int(float(row.get("batch_or_concurrency") or row["concurrency"]))
            rows[concurrency] = {
                metric: float(row[column]) * scale
                for metric, column, scale in (
                    ("ttft_s", "ttft_ms", 1e-3),
                    ("tpot_s", "tpot_ms", 1e-3),
                    ("output_tokens_per_s", "output_tok_s", 1.0),
                    ("total_tokens_per_s", "total_tok_s", 1.0),
                )
                if row.get(column)
            }
        except (KeyError, ValueError) as error:
            raise InputError(
                "every row needs a whole number in batch_or_concurrency, and numbers in the other "
                f"columns ({error})",
                where=str(path),
            ) from error
    return rows

"""``groundspeed audit``: check whether a published throughput is possible, and what it means."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.estimator.decisions.audit import Claim

KEYS = (
    "tokens_per_s",
    "counts",
    "model",
    "gpu",
    "gpus",
    "isl",
    "osl",
    "concurrency",
    "dtype",
    "label",
)
"""Keys of a claim in a file."""


def audit_command(
    file: Annotated[
        Path | None,
        typer.Argument(
            help=(
                "YAML or JSON file with one claim, or with a list of two to compare (keys as the "
                "options below; tokens_per_s is --rate). Not given: the options are the claim."
            )
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Claimed throughput in tokens/s, of all GPUs together. Required without a file."
        ),
    ] = None,
    counts: Annotated[
        str | None,
        typer.Option(
            help="Tokens that the rate counts: 'total' (input and output) or 'output'. Not given: "
            "both readings are shown."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model: a shipped name, a Hugging Face name or the path of a config.json. "
            "Required without a file."
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="GPU: a name (h200), or the id or file of a profile. Required without a file."
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="Number of GPUs that the claimed rate was measured on. Not given: 1 is assumed."
        ),
    ] = None,
    isl: Annotated[
        int | None,
        typer.Option(
            help="Input length of the claim: tokens in each prompt. Not given: only the range of "
            "predicted rates is shown."
        ),
    ] = None,
    osl: Annotated[
        int | None,
        typer.Option(
            help="Output length of the claim: tokens generated for each request. Not given: only "
            "the range of predicted rates is shown."
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="Number of concurrent clients in the claim. Not given: only the range of "
            "predicted rates is shown."
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Data type of the weights. Default: the checkpoint's.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Serving engine that the prediction assumes: vllm, sglang, trtllm or atom."
        ),
    ] = "sglang",
    engine_version: Annotated[
        str,
        typer.Option(
            help="Version of the engine, e.g. 0.12. Default: the newest whose host costs are known."
        ),
    ] = "",
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Check if a claimed throughput is complete and possible, and what a user would see.

    Exit code 1: a check failed, for example the claim exceeds the bound of the datasheet.

    Example: groundspeed audit --rate 170 --counts total --model deepseek-r1 --gpu h200 --gpus 8
    --isl 3200 --osl 800 --concurrency 1
    """
    from groundspeed.estimator.decisions.audit import audit_claim, compare_claims
    from groundspeed.estimator.engines.limits import engine_on
    from groundspeed.estimator.hardware.find_hardware import find_hardware

    given = {
        "tokens_per_s": rate, "counts": counts, "model": model, "gpu": gpu, "gpus": gpus,
        "isl": isl, "osl": osl, "concurrency": concurrency, "dtype": dtype,
    }  # fmt: skip
    documents = _read(file) if file else [{k: v for k, v in given.items() if v is not None}]
    claims = [_claim(d, i) for i, d in enumerate(documents, start=1)]
    audits = []
    for claim in claims:
        hardware = find_hardware(claim.gpu, profile_dir=profile_dir)
        chosen = engine_on(engine, hardware.best, version=engine_version)
        audits.append(audit_claim(claim, hardware.best, hardware.spec, chosen))
    fair = compare_claims(claims[0], claims[1]) if len(claims) == 2 else None
    if as_json or output is not None:
        document: dict[str, Any] = {"claims": [a.model_dump(mode="json") for a in audits]}
        if fair is not None:
            document["comparison"] = fair.model_dump(mode="json")
        deliver(json.dumps(document, indent=1), output, force=force)
    else:
        from groundspeed.display.show_audit import show_audit, show_fair_comparison
        from groundspeed.display.terminal import make_console

        console = make_console()
        for audit in audits:
            show_audit(console, audit)
        if fair is not None:
            show_fair_comparison(console, fair)
    if not all(a.passes for a in audits):
        raise typer.Exit(1)


def _read(path: Path) -> list[dict[str, Any]]:
    """Read one claim or two from a YAML file (JSON is valid YAML)."""
    import yaml

    from groundspeed.profiles.files import read_text

    try:
        document = yaml.safe_load(read_text(path, "claim"))
    except yaml.YAMLError as error:
        reason = str(error).strip().replace("\n", " ")[:120]
        raise InputError(f"is not valid YAML or JSON ({reason})", where=str(path)) from error
    claims = document if isinstance(document, list) else [document]
    if not claims or len(claims) > 2 or not all(isinstance(d, dict) for d in claims):
        raise InputError("must hold one claim, or a list of one or two claims", where=str(path))
    return [{str(k): v for k, v in d.items()} for d in claims]


def _claim(document: dict[str, Any], number: int) -> "Claim":
    from groundspeed.estimator import find_model
    from groundspeed.estimator.decisions.audit import Claim
    from groundspeed.profiles.errors import did_you_mean

    strange = sorted(set(document) - set(KEYS))
    if strange:
        raise InputError(
            f"claim {number} has the unknown key '{strange[0]}'",
            remedy=did_you_mean(strange[0], KEYS),
        )
    for name, option in (("tokens_per_s", "--rate"), ("model", "--model"), ("gpu", "--gpu")):
        if document.get(name) in (None, ""):
            raise InputError(
                f"claim {number} lacks {name}", remedy=f"give {option}, or {name} in the file"
            )
    counts = document.get("counts")
    if counts not in (None, "total", "output"):
        raise InputError(f"'{counts}' is not a kind of tokens", where="--counts",
                         remedy="give total (input and output) or output")  # fmt: skip

    def whole(name: str) -> int | None:
        value = document.get(name)
        if value in (None, ""):
            return None
        try:
            number = int(str(value))
        except ValueError as error:
            raise InputError(f"{name} is '{value}', not a whole number") from error
        if number < 1:
            raise InputError(f"{name} must be at least 1, not {number}")
        return number

    try:
        rate = float(str(document["tokens_per_s"]))
    except ValueError as error:
        raise InputError(f"tokens_per_s is '{document['tokens_per_s']}', not a number") from error
    return Claim(
        tokens_per_s=rate,
        model=find_model(str(document["model"])),
        gpu=str(document["gpu"]),
        counts=counts,
        isl=whole("isl"),
        osl=whole("osl"),
        concurrency=whole("concurrency"),
        gpus=whole("gpus"),
        dtype=str(document["dtype"]) if document.get("dtype") else None,
        label=str(document.get("label", f"claim {number}")),
    )

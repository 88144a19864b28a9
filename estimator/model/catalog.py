"""Find a model by path, short name or Hugging Face name.

Only metadata ships (the configuration and the published parameter count, a kilobyte per model), so
well-known names resolve offline. The configuration of any other name is downloaded with
huggingface_hub, if it is installed and the hub can be reached.
"""

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

from groundspeed.estimator.model.architectures import parse_config, read_config
from groundspeed.estimator.model.quantization import FORMAT_OF_SUFFIX
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.files import parse_json_object, read_text, user_path

HUB_TIMEOUT_S = 10.0


@functools.cache
def shipped_models() -> dict[str, dict[str, Any]]:
    """Return the metadata of every model that ships, by id."""
    folder = resources.files("groundspeed.estimator") / "models"
    all_facts = [
        json.loads(entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    ]
    return {facts["id"]: facts for facts in sorted(all_facts, key=lambda s: s["id"])}


def _names(key: str, facts: dict[str, Any]) -> tuple[str, ...]:
    """Return all names of a model: its id, its hub names, and models of the same shape."""
    return (key, *facts["hub_names"], *facts.get("aliases", ()))


def find_model(name: str, *, assume: str | None = None) -> Model:
    """Find a model by name or path.

    Parameters
    ----------
    name : str
        Path of a ``config.json`` or of a folder with one, a shipped name (``qwen2.5-32b``), or a
        hub name (``Qwen/Qwen2.5-32B-Instruct``). Suffixes that do not change the shape
        (``-Instruct``, ``-FP8``) are optional.
    assume : {'dense'}, optional
        Read an unknown architecture as a plain dense decoder. Not given: it is rejected.

    Raises
    ------
    InputError
        If no such model can be found or read; the message suggests similar names.
    """
    models = shipped_models()
    names = {alias.lower(): key for key, s in models.items() for alias in _names(key, s)}
    names |= {alias.split("/")[-1]: key for alias, key in names.items()}
    plain = name.strip().lower().split("/")[-1]
    stated: str | None = None
    while plain not in names and (shorter := _without_suffix(plain)) != plain:
        stated = stated or FORMAT_OF_SUFFIX.get(plain.removeprefix(shorter))
        plain = shorter
    exact = names.get(name.strip().lower()) or (names.get(plain) if not Path(name).exists() else "")
    facts = models.get(exact or "")
    if facts is not None:
        model = parse_config(facts["config"], name=facts["id"], where=f"model {facts['id']}")
        model = model.model_copy(update={"published_parameters": facts["parameters"]})
        return _as_stated(model, stated)
    try:
        path = Path(name)
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if exists or name.endswith(".json") or name.startswith((".", "/", "~")):
        return read_config(user_path(name), assume=assume)
    if name.count("/") == 1:
        return _from_hub(name)
    raise InputError(
        f"unknown model '{name}'",
        remedy=f"{did_you_mean(name, models)}; or give the path of a config.json",
    )


def _as_stated(model: Model, stated: str | None) -> Model:
    """Return a model with the format of its weights that the end of the name says."""
    if stated is None:
        return model
    if stated == "bfloat16":
        return model.model_copy(update={"weights": None})
    if stated == "fp8":
        stated = model.fp8_format
    if model.weights is not None and model.weights.startswith(stated):
        return model
    said = f"{model.id}: weights in {stated}, as the name says"
    part = "experts" if stated == "w4a16_mxfp4" else model.quantized_part
    return model.model_copy(
        update={"weights": stated, "quantized_part": part, "notes": (*model.notes, said)}
    )


def hub_name(model: Model) -> str:
    """Return the Hugging Face name of a shipped model; for any other model, its id."""
    facts = shipped_models().get(model.id)
    names = facts["hub_names"] if facts else []
    return str(names[0]) if names else model.id


SUFFIXES = (
    "-instruct", "-chat", "-it", "-hf", "-fp8", "-nvfp4", "-fp4", "-mxfp4", "-awq", "-gptq",
    "-int4", "-int8", "-bf16", "-kv", "-dynamic", "-2507", "-0528", "-0324", "-2501", "-0905",
    "-thinking", "-base", "-v0.1", "-v0.2", "-v0.3", "-w4a16", "-w8a8", "-preview",
)  # fmt: skip
"""Suffixes that do not change the shape of a model: tuning, dates, precision."""


def _without_suffix(name: str) -> str:
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _from_hub(name: str) -> Model:
    remedy = "give the path of its config.json"
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"model '{name}' does not ship with groundspeed",
            remedy=f"{remedy}, or: pip install huggingface-hub",
        ) from error
    try:
        file = huggingface_hub.hf_hub_download(name, "config.json", etag_timeout=HUB_TIMEOUT_S)
    except Exception as error:  # huggingface_hub raises many types; always show the remedy
        reason = str(error).strip().split("\n")[0][:120]
        raise InputError(
            f"model '{name}' could not be read from the hub ({type(error).__name__}: {reason})",
            remedy=remedy,
        ) from error
    text = read_text(Path(file), "model configuration")
    document = parse_json_object(text, "model configuration", name)
    return parse_config(document, name=name, where=name)

"""Limits of an engine that a user sets: tokens of a step, sequences, memory, longest request."""

from typing import Protocol

from groundspeed.estimator.engines.engine import Engine, find_engine
from groundspeed.profiles.errors import InputError


class Device(Protocol):
    """What decides the limits that an engine sets itself."""

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        ...

    @property
    def architecture(self) -> str:
        """Architecture of the device."""
        ...


def engine_on(name: str, device: Device, *, version: str = "") -> Engine:
    """Return the constants of an engine on a device, with the limits that it sets there.

    Raises
    ------
    InputError
        If the engine is not known, or has no constants for the platform of the device.
    """
    platform = "rocm" if device.architecture.lower().startswith("cdna") else "cuda"
    engine = find_engine(name, version=version, platform=platform)
    return engine.on_device(device.memory_bytes, device.architecture)


def override_limits(
    engine: Engine,
    token_budget: int | None,
    most: int | None = None,
    memory_fraction: float | None = None,
    max_model_len: int | None = None,
) -> Engine:
    """Return a copy of an engine with the limits that a user sets; None keeps the engine's own.

    Raises
    ------
    InputError
        If a limit is out of range.
    """
    if memory_fraction is not None and not 0.0 < memory_fraction <= 1.0:
        raise InputError(
            f"must lie above 0 and at most at 1, not {memory_fraction:g}",
            where="--memory-fraction",
            remedy="leave it out for the engine's own default",
        )
    update: dict[str, object] = {}
    for name, option, value in (
        ("token_budget", "--token-budget", token_budget),
        ("max_sequences", "--max-sequences", most),
        ("max_model_len", "--max-model-len", max_model_len),
    ):
        if value is None:
            continue
        if not 1 <= value <= 10_000_000:
            raise InputError(
                f"must lie between 1 and 10,000,000, not {value}",
                where=option,
                remedy="leave it out for the engine's own default",
            )
        update[name] = value
    if memory_fraction is not None:
        update["memory_fraction"] = memory_fraction
    return engine.model_copy(update=update) if update else engine

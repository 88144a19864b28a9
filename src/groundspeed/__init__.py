"""Measure GPUs, fit cost models to the timings and predict LLM serving speed from them.

The names below are imported on first use, so ``import groundspeed`` needs neither torch nor pandas.

>>> from groundspeed import estimate
>>> p = estimate("qwen2.5-32b", gpu="h20", prompt_tokens=1024, output_tokens=1024)
>>> 40 < 1 / p.tpot_s < 62.1  # token/s; the datasheet bound is 62.1
True
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundspeed.api import (
        audit,
        backtest,
        compare,
        estimate,
        load_profile,
        plan,
        run_calibration,
        screen,
        sweep,
    )
    from groundspeed.estimator import Model, Prediction, Workload
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.fleet.screen.request import Served
    from groundspeed.profiles import InputError, PhysicsError, Profile

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Model",
    "PhysicsError",
    "Prediction",
    "Profile",
    "Served",
    "Workload",
    "__version__",
    "audit",
    "backtest",
    "compare",
    "estimate",
    "find_hardware",
    "load_profile",
    "plan",
    "run_calibration",
    "screen",
    "sweep",
]

_HOME = {
    "audit": "groundspeed.api",
    "backtest": "groundspeed.api",
    "compare": "groundspeed.api",
    "estimate": "groundspeed.api",
    "plan": "groundspeed.api",
    "run_calibration": "groundspeed.api",
    "screen": "groundspeed.api",
    "sweep": "groundspeed.api",
    "Served": "groundspeed.fleet.screen.request",
    "find_hardware": "groundspeed.api",
    "Model": "groundspeed.estimator",
    "Prediction": "groundspeed.estimator",
    "Workload": "groundspeed.estimator",
    "InputError": "groundspeed.profiles",
    "PhysicsError": "groundspeed.profiles",
    "Profile": "groundspeed.profiles",
    "load_profile": "groundspeed.api",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (module attributes may have any type)
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'groundspeed' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)

"""Predict TTFT, TPOT and throughput with 90 % intervals from a model, a workload and a profile.

This package never imports torch, pandas or scipy: an estimate is arithmetic on a few hundred
numbers.

>>> from groundspeed.estimator import find_model
>>> find_model("Qwen/Qwen2.5-32B-Instruct").parameters
32763876352
"""

from groundspeed.estimator.hardware.law_lookup import DatasheetHardware, Hardware, ProfileHardware
from groundspeed.estimator.model.catalog import find_model
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Prediction, Workload

__all__ = [
    "DatasheetHardware",
    "Hardware",
    "Model",
    "Prediction",
    "ProfileHardware",
    "Server",
    "Workload",
    "find_model",
]

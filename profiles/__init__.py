"""Datasheets and measured profiles of devices, and the laws that predict the time of an operation.

A *datasheet* holds the vendor's peak numbers. A *profile* holds measurements: curves with
intervals, the laws fitted to them, and the source of every number. This package measures nothing
and does not need torch; laws map numpy arrays to numpy arrays.

>>> from groundspeed.profiles import find_device
>>> h20 = find_device("h20").spec
>>> h20.peak_flops_per_s["bfloat16"].value
148000000000000.0
"""

from groundspeed.profiles.datasheet import DeviceSpec, find_device, load_datasheets
from groundspeed.profiles.errors import InputError, PhysicsError, did_you_mean
from groundspeed.profiles.laws import Law, LawPrediction, law_time
from groundspeed.profiles.operations import OPERATIONS, Operation
from groundspeed.profiles.schema import Curve, Environment, Point, Profile
from groundspeed.profiles.store import load_profile, save_profile
from groundspeed.profiles.validation import Violation, check_profile

__all__ = [
    "OPERATIONS",
    "Curve",
    "DeviceSpec",
    "Environment",
    "InputError",
    "Law",
    "LawPrediction",
    "Operation",
    "PhysicsError",
    "Point",
    "Profile",
    "Violation",
    "check_profile",
    "did_you_mean",
    "find_device",
    "law_time",
    "load_datasheets",
    "load_profile",
    "save_profile",
]

"""What is known about a device, and the laws that turn an operation into seconds.

A *datasheet* is what the vendor promises, a *profile* is what was measured: curves with error
bars, the laws fitted to them, and where every number came from. Nothing here measures anything or
needs torch; laws map numpy arrays to numpy arrays.

>>> from groundspeed.profiles import find_device
>>> h20 = find_device("h20").spec
>>> h20.peak_flops_per_s["bfloat16"].value
148000000000000.0
"""

from groundspeed.profiles.datasheet import DeviceSpec, find_device, load_datasheets
from groundspeed.profiles.errors import InputError, did_you_mean
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

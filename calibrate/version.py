"""Versions stored with every measurement: of this program and of the measurement method."""

from importlib import metadata

METHOD_VERSION = 2
"""Version of the measurement method. Increase it whenever the method changes. History: 1 (2026-11)
is the first version. 2 (2026-11): queueing is proven, graphs replay whole rotations, power is
instantaneous, operands do not repeat at powers of two, fp8 accumulates as in engines."""


def tool_version() -> str:
    """Version of this program; "0.1.0+checkout" in a checkout that is not installed."""
    try:
        return metadata.version("groundspeed")
    except metadata.PackageNotFoundError:
        return "0.1.0+checkout"

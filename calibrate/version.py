"""Versions stored with every measurement: of this program and of the measurement method."""

from importlib import metadata

METHOD_VERSION = 2
"""Version of the measurement method. Increase it whenever the method changes. History: 1 (2026-11)
is the first version."""


def tool_version() -> str:
    """Version of this program; "0.1.0+checkout" in a checkout that is not installed."""
    try:
        return metadata.version("groundspeed")
    except metadata.PackageNotFoundError:
        return "0.1.0+checkout"

"""Versions that a measurement carries: of the program, and of the way of measuring."""

from importlib import metadata

METHOD_VERSION = 1
"""Raise it whenever the way of measuring changes. History: 1 (2026-11): first."""


def tool_version() -> str:
    """Version of this program, also in a checkout that is not installed."""
    try:
        return metadata.version("groundspeed")
    except metadata.PackageNotFoundError:
        return "0.1.0+checkout"

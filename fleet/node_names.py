"""Check levels, and file names made from node names; imports only the standard library."""

import urllib.parse
from typing import Literal

CheckLevel = Literal["check", "quick", "standard", "full"]
"""How much of a device is measured: ``check`` takes seconds, the others are ``calibrate`` modes."""


def file_name(node: str) -> str:
    """Return a node's name as a file name, quoted so that the path cannot leave its folder.

    >>> file_name("../../x"), file_name("gpu-17")
    ('..%2F..%2Fx', 'gpu-17')
    """
    quoted = urllib.parse.quote(node, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")

"""Names that a node and its files go by; needs nothing that a bare machine lacks."""

import urllib.parse
from typing import Literal

CheckLevel = Literal["check", "quick", "standard", "full"]
"""How much of a device is measured: seconds, or one of the modes of ``calibrate``."""


def file_name(node: str) -> str:
    """A node's name as a file name: nothing in it can leave the folder.

    >>> file_name("../../x"), file_name("gpu-17")
    ('..%2F..%2Fx', 'gpu-17')
    """
    quoted = urllib.parse.quote(node, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")

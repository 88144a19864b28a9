"""Wait for a device with a time limit, because a collective that hangs never returns by itself.

A GPU executes collectives in the background, and the host that waits for them sits in the driver. A
rank that never arrives therefore hangs all others without an error: NCCL's own watchdog kills the
healthy ranks after its limit, and it does not see collectives inside a captured graph at all. Every
wait of a link measurement polls an event here, with a limit below that of the watchdog.

    wait_for_device(device, timeout_s=60.0)
"""

import time

import torch

SPIN_S = 2e-3
"""[s] Time of polling without a pause: most waits are shorter."""

PAUSE_S = 2e-4
"""[s] Pause between two looks afterwards."""

WATCHDOG_MARGIN_S = 120.0
"""[s] Time by which the watchdog of the communication library waits longer than this module."""


class HungDeviceError(Exception):
    """Raised if the device has not finished its work within the time limit.

    It is no ``RuntimeError``, which would be taken for an operation that a device does not support.
    """


def wait_for_device(device: torch.device, timeout_s: float) -> None:
    """Wait until the device has finished all work of the current stream; a CPU needs no wait.

    Raises
    ------
    HungDeviceError
        If it has not finished within ``timeout_s``.
    """
    if device.type != "cuda":
        return
    done = torch.cuda.Event()
    done.record()
    begin = time.monotonic()
    while not done.query():
        waited_s = time.monotonic() - begin
        if waited_s > timeout_s:
            raise HungDeviceError(f"the device did not finish within {timeout_s:g} s")
        if waited_s > SPIN_S:
            time.sleep(PAUSE_S)

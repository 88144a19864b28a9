"""Make glibc keep freed memory in the process, as the caching allocator of a serving process does.

By default glibc returns every freed block above 32 MiB to the kernel and requests it again page by
page. The kernel zeroes each page on first touch, so an activation of 40 MB takes five times as long
as one of 30 MB. A server that runs for hours does not behave like that, because its allocator
caches blocks. Calibration and ``verify`` therefore keep freed memory too, and the profile records
this setting.
"""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def keep_freed_memory() -> str:
    """Configure the C library to keep freed memory, and describe the resulting setting.

    Returns
    -------
    str
        Allocator setting for the profile's environment, e.g. ``glibc, keeps freed memory``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc: there is no mallopt to configure it with
        return "not glibc, default settings"
    kept = mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER)
    return "glibc, keeps freed memory" if kept else "glibc, default settings"

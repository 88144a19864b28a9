"""Keep freed memory in the process, as a serving process does.

glibc gives every block above 32 MiB back to the kernel when it is freed, and gets it back page by
page, each page zeroed on first touch: an activation of 40 MB then takes five times as long as one
of 30 MB. A server that runs for hours does not work like that (its allocator caches blocks), so
neither calibration nor ``verify`` does. The profile records it.
"""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def keep_freed_memory() -> str:
    """Tell the C library to keep freed memory; say what was done.

    Returns
    -------
    str
        For the profile's environment.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc: its allocator keeps its own counsel
        return "the C library's, as it is"
    kept = mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER)
    return "glibc, keeps freed memory" if kept else "glibc, as it is"

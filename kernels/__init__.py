"""Benchmark kernels that run on a device, with one file for each physical limit.

A kernel class builds its inputs, checks its own result against float64 and counts its FLOPs and
bytes. It has no code for timing, statistics or files: ``groundspeed.calibrate`` times it. Every
kernel is a class with three methods (see :mod:`groundspeed.kernels.kernel`):

    cost(case)               algorithmic FLOPs and bytes
    prepare(case, pool)      callables, one for each set of operands, to be called in rotation
    check(case, pool)        largest error against float64, in units of the tolerance
"""

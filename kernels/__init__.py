"""What runs on a device: one file for each physical limit.

A kernel knows its inputs, how to check its own result against float64, and how many FLOPs and
bytes it costs. It knows nothing of clocks, statistics or files; ``groundspeed.calibrate`` times
it. Every kernel is a class with three methods (see :mod:`groundspeed.kernels.kernel`):

    cost(case)               FLOPs and bytes, by the mathematics
    prepare(case, pool)      callables, one for each set of operands, to be called in rotation
    check(case, pool)        how far the result is from float64, in units of the tolerance
"""

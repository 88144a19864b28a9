"""Says which GPU, link or node of many is slower than it should be, why, and what that costs.

A machine is judged against its own kind, measured the same way on the same day: no published floor
knows this fleet, and a floor that does cannot find a GPU that is 5 % slow.
"""

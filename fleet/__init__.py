"""Find the GPU, link or node of a fleet that is too slow, name the cause, and estimate the cost.

Each GPU is compared with GPUs of its own class, measured in the same way on the same day. Published
floors were not made for this fleet, and even a floor made for it cannot find a GPU that is only 5 %
slow.
"""

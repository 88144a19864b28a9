"""Simulated GPUs whose true speed is known, so that tests can assert what the tool measures.

The tool runs unchanged: torch's tensors on ``cuda`` have shapes and addresses but no contents
(torch's fake tensors), and every operation takes the time that a discrete-event model of the device
gives it. ``chip`` holds the truth, ``timeline`` the model, ``tensors`` and ``triton_launches`` turn
calls into work, ``cuda`` replaces ``torch.cuda``, ``nccl`` the communication among processes.
"""

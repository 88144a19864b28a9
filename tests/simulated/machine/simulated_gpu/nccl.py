"""Placeholder."""


def replace_communication(sim):
    pass

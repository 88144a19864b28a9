"""Install the simulated GPUs as soon as torch is imported, in every process that inherits the path.

Python imports a module of this name at start-up. It does nothing unless ``SIMULATED_MACHINE`` holds
the description of a machine (JSON, see ``simulated_gpu.chip.Machine``).
"""

import os

if os.environ.get("SIMULATED_MACHINE"):
    from simulated_gpu.install import install_with_torch

    install_with_torch()

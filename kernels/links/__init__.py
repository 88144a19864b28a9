"""Link kernels: collectives between devices, symmetric memory, and host-to-device copies."""

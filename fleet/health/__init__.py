"""Check one node against a baseline, and report it to Nagios, Slurm, Kubernetes, Prometheus."""

"""Check one node against a baseline; report to Nagios, Slurm, Kubernetes or Prometheus."""

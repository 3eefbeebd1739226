"""The figures for Prometheus: what is read when they are asked for, and the route."""

"""Load on a server over HTTP, and what it costs there: shared by the trials and benchmarks of this folder."""

"""What keeps a process that was taken over from doing harm.

`rules.py` runs in the server. `process.py` runs in the processes, and imports little.
"""

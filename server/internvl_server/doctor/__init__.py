"""`internvl-server doctor`: checks a machine and its settings before the server is started on it.

`command.py` runs the checks and prints what they find. Each of the other modules has checks of one kind in
its `CHECKS`. They are imported one by one, so that a missing package spoils those alone that need it.
"""

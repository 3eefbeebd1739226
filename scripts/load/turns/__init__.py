"""Measures several systems in turn, in parts; keeps the figures in a file and makes tables of them."""

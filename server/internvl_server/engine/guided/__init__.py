"""Guided decoding shared by the engines: compiling constraints and following them."""

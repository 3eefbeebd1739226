"""Reads what a checkpoint folder says about its model, in both layouts."""

"""Rendered and labelled tiles for the vision phases."""

"""Faults, injected into real servers, and what must hold beside and after them."""

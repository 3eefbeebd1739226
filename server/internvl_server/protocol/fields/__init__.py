"""Which fields an endpoint knows, and what becomes of every other field of a body."""

from internvl_server.protocol.fields.marks import Extension, Needs
from internvl_server.protocol.fields.table import FieldRow, FieldTable, known_fields

__all__ = ["Extension", "FieldRow", "FieldTable", "Needs", "known_fields"]

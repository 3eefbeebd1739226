"""Which fields an endpoint knows, and what becomes of every other member of a body."""

from internvl_server.protocol.fields.marks import Extension, Needs
from internvl_server.protocol.fields.members import DefinedNames, Foreign
from internvl_server.protocol.fields.reading import Reading
from internvl_server.protocol.fields.table import FieldRow, FieldTable, known_fields

__all__ = [
    "DefinedNames",
    "Extension",
    "FieldRow",
    "FieldTable",
    "Foreign",
    "Needs",
    "Reading",
    "known_fields",
]

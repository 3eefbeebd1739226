"""Which fields an endpoint knows, and what happens to every other member of a body."""

from internvl_server.protocol.fields.annotations import Extension, Needs
from internvl_server.protocol.fields.members import DefinedNames, Foreign, shown_name
from internvl_server.protocol.fields.nested import NestedMembers
from internvl_server.protocol.fields.table import FieldRow, FieldTable, known_fields

__all__ = [
    "DefinedNames",
    "Extension",
    "FieldRow",
    "FieldTable",
    "Foreign",
    "Needs",
    "NestedMembers",
    "known_fields",
    "shown_name",
]

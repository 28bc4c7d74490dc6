"""How schemas are written down: a field is a name, an Arrow type and a sentence."""

import pyarrow as pa

DOC = b"doc"

LOW_CARDINALITY = pa.dictionary(pa.int32(), pa.string())
"""Names that repeat over many rows: VARCHAR in DuckDB, category in pandas."""


def documented(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    """An Arrow schema whose fields carry their meaning as metadata under "doc"; all fields are nullable."""
    return pa.schema([pa.field(name, kind, metadata={DOC: doc.encode()}) for name, kind, doc in fields])


def doc_of(field: pa.Field) -> str:
    """The sentence that a schema's field carries."""
    return bytes((field.metadata or {}).get(DOC, b"")).decode()

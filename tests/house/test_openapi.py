import json
import os
import re
from pathlib import Path

from internvl_server.protocol.chat.request import ChatCompletionRequest
from internvl_server.protocol.messages.request import CountTokensRequest, MessagesRequest
from internvl_server.protocol.responses.request import InputTokensRequest, ResponsesRequest

from tests.live_server import LiveServer

# Those whose parts are named separately in the document.
BODIES = (
    ChatCompletionRequest,
    CountTokensRequest,
    InputTokensRequest,
    MessagesRequest,
    ResponsesRequest,
)
SNAPSHOT = Path(__file__).parents[1] / "data" / "openapi.json"


def test_the_openapi_document_changes_only_on_purpose(echo_server: LiveServer) -> None:
    document = json.dumps(echo_server.app.openapi(), indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(document)
    assert document == SNAPSHOT.read_text(), (
        "on purpose? UPDATE_SNAPSHOTS=1 scripts/test tests/house"
    )


def test_every_reference_of_the_document_resolves(echo_server: LiveServer) -> None:
    document = echo_server.app.openapi()
    text = json.dumps(document)
    references = set(re.findall(r'"\$ref": "([^"]+)"', text))
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references <= names
    assert "#/$defs/" not in text


def test_no_two_schemas_share_a_name() -> None:
    schemas: dict[str, object] = {}
    for model in BODIES:
        for name, schema in model.model_json_schema()["$defs"].items():
            assert schemas.setdefault(name, schema) == schema, name

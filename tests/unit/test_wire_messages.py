"""The compiled messages against two oracles: their own sources, and envoy-data-plane's independent reading of Envoy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import betterproto2
import pytest
from envoy_data_plane.envoy.service.accesslog.v3 import StreamAccessLogsMessage, StreamAccessLogsResponse
from envoy_data_plane.envoy.service.ext_proc.v3 import ProcessingRequest, ProcessingResponse
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.internal import api_implementation
from google.protobuf.message import Message

from ext_proc import wire
from ext_proc.wire import access_log_service_pb2, external_processor_pb2, health_pb2

REPOSITORY = Path(__file__).parents[2]
WIRE = REPOSITORY / "ext_proc" / "wire"

# Descriptors and fields are `Any` below: the stubs give them as unions of the C and the Python runtime's classes.
ROOTS: list[tuple[Any, type[betterproto2.Message]]] = [
    (external_processor_pb2.ProcessingRequest.DESCRIPTOR, ProcessingRequest),
    (external_processor_pb2.ProcessingResponse.DESCRIPTOR, ProcessingResponse),
    (access_log_service_pb2.StreamAccessLogsMessage.DESCRIPTOR, StreamAccessLogsMessage),
    (access_log_service_pb2.StreamAccessLogsResponse.DESCRIPTOR, StreamAccessLogsResponse),
]

TYPE_NAMES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_MESSAGE: "message",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}

# Ours is a plain number on purpose (proto/ext_proc/wire/http_status.proto): the same varint.
NUMBER_FOR_ENUM = {"envoy.type.v3.HttpStatus.code"}


def _wire_type(field: Any) -> str:
    if field.full_name in NUMBER_FOR_ENUM:
        return "enum"
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    return "map" if is_map else TYPE_NAMES[field.type]


def _compare_message(ours: Any, theirs: Any, seen: set[str]) -> list[str]:
    """Every disagreement between two descriptions of one message and of all it holds."""
    if ours.full_name in seen:
        return []
    seen.add(ours.full_name)
    metas = {field.name: field.metadata["betterproto"] for field in dataclasses.fields(theirs)}
    classes = theirs()._betterproto.cls_by_field
    problems: list[str] = []
    for field in ours.fields:
        if field.name not in metas:
            problems.append(f"{field.full_name}: not a field of Envoy's")
            continue
        problems += _compare_field(field, metas[field.name])
        if field.enum_type is not None:
            problems += _compare_enum(field.enum_type, classes[field.name])
        elif _wire_type(field) == "message" and not field.message_type.full_name.startswith("google.protobuf."):
            problems += _compare_message(field.message_type, classes[field.name], seen)
    return problems


def _compare_field(field: Any, meta: betterproto2.FieldMetadata) -> list[str]:
    kind = _wire_type(field)
    oneof = field.containing_oneof.name if field.containing_oneof else None
    ours: tuple[object, ...] = (field.number, kind, field.is_repeated and kind != "map", oneof)
    theirs: tuple[object, ...] = (meta.number, meta.proto_type, meta.repeated, meta.group)
    if kind == "map":
        ours += tuple(_wire_type(part) for part in field.message_type.fields)
        theirs += tuple(part.proto_type for part in meta.map_meta or ())
    return [] if ours == theirs else [f"{field.full_name}: {ours}, Envoy has {theirs}"]


def _compare_enum(ours: Any, theirs: type[betterproto2.Enum]) -> list[str]:
    """Values by number; names without case and underscores, which the other generator changes."""
    mine = {value.number: value.name.replace("_", "").lower() for value in ours.values}
    other = {value.value: str(value.name).replace("_", "").lower() for value in theirs}
    return [f"{ours.full_name}.{name}" for number, name in mine.items() if other.get(number) != name]


@pytest.mark.parametrize(("ours", "theirs"), ROOTS, ids=lambda root: getattr(root, "full_name", None))
def test_fields_are_envoys(ours: Any, theirs: Any) -> None:
    """Every field of ours, at any depth, has the number, the type and the oneof that Envoy 1.40 gives it."""
    seen: set[str] = set()

    assert _compare_message(ours, theirs, seen) == []
    assert ours.full_name in seen


def test_comparison_sees_a_wrong_field() -> None:
    """The comparison itself fails on a message that is another one, so that its silence means something."""
    problems = _compare_message(external_processor_pb2.HttpBody.DESCRIPTOR, ProcessingResponse, set())

    assert len(problems) == len(external_processor_pb2.HttpBody.DESCRIPTOR.fields)


def _fill(message: Any, only: str | None = None) -> None:
    """Give every field a value that is not its default; `only` names the branch of the outermost oneof to take."""
    for number, field in enumerate(message.DESCRIPTOR.fields, start=3):
        inner = getattr(message, field.name)
        if field.containing_oneof is not None and only not in {None, field.name}:
            continue
        if _wire_type(field) == "map":
            _fill_map(inner, field)
        elif field.message_type is None and field.is_repeated:
            inner.append(f"{field.name}-{number}")
        elif field.message_type is None:
            setattr(message, field.name, _sample(field, number))
        elif field.message_type.full_name.startswith("google.protobuf."):
            _fill_well_known(inner, number)
        else:
            _fill(inner.add() if field.is_repeated else inner)


def _fill_well_known(inner: Any, number: int) -> None:
    match inner.DESCRIPTOR.name:
        case "Duration" | "Timestamp":
            inner.seconds, inner.nanos = 1_700_000_000 + number, 250_000_000
        case "BoolValue" | "UInt32Value":
            inner.value = number
        case "Struct":
            inner["namespace"] = {"key": number, "flag": True}
        case other:
            raise AssertionError(f"no sample for {other}")


def _fill_map(entries: Any, field: Any) -> None:
    value = field.message_type.fields_by_name["value"].message_type
    if value is None:
        entries["key"] = "value"
    elif value.name == "Struct":
        entries["key"]["inner"] = field.name
    else:
        entries["key"].type_url, entries["key"].value = "type.googleapis.com/google.protobuf.StringValue", b"\n\x01x"


def _sample(field: Any, number: int) -> object:
    match TYPE_NAMES[field.type]:
        case "bool":
            return True
        case "bytes":
            return f"{field.name}-{number}".encode()
        case "string":
            return f"{field.name}-{number}"
        case "enum":
            return field.enum_type.values[-1].number
        case _:
            return 200 + number


def _branches() -> list[tuple[type[Message], type[betterproto2.Message], str | None]]:
    pairs: list[tuple[type[Message], type[betterproto2.Message]]] = [
        (external_processor_pb2.ProcessingRequest, ProcessingRequest),
        (external_processor_pb2.ProcessingResponse, ProcessingResponse),
        (access_log_service_pb2.StreamAccessLogsMessage, StreamAccessLogsMessage),
    ]
    return [
        (ours, theirs, field.name)
        for ours, theirs in pairs
        for oneof in ours.DESCRIPTOR.oneofs
        for field in oneof.fields
    ]


# Envoy deprecated two fields that we speak on purpose (`append`, `intermediate_log_entry`); the other library warns.
@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("ours", "theirs", "branch"), _branches(), ids=lambda value: getattr(value, "__name__", value))
def test_round_trip(ours: type[Message], theirs: type[betterproto2.Message], branch: str) -> None:
    """Bytes that we write are read and written by the other library, and come back with every value of every field."""
    message = ours()
    _fill(message, only=branch)

    through_the_other = bytes(theirs.parse(message.SerializeToString()))

    assert message.WhichOneof(message.DESCRIPTOR.oneofs[0].name) == branch
    assert message == ours.FromString(through_the_other)


def _services() -> dict[str, Any]:
    files = [module.DESCRIPTOR for module in (external_processor_pb2, access_log_service_pb2, health_pb2)]
    return {service.full_name: service for file in files for service in file.services_by_name.values()}


def test_method_names() -> None:
    """The names we serve under are those of the compiled services: Envoy calls by full name."""
    methods = {
        f"/{name}/{method.name}": (method.client_streaming, method.server_streaming)
        for name, service in _services().items()
        for method in service.methods
    }

    assert methods == {
        wire.PROCESS_METHOD: (True, True),
        wire.STREAM_ACCESS_LOGS_METHOD: (True, False),
        wire.HEALTH_CHECK_METHOD: (False, False),
        wire.HEALTH_WATCH_METHOD: (False, True),
    }


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    """What is checked in is what the sources compile to."""
    subprocess.run([sys.executable, REPOSITORY / "proto" / "generate.py", "--out", tmp_path], check=True)

    fresh = {path.name: path.read_text() for path in (tmp_path / "ext_proc" / "wire").iterdir()}
    checked_in = {path.name: path.read_text() for path in WIRE.glob("*_pb2.py*")}

    assert checked_in == fresh


def test_parser_is_the_fast_one() -> None:
    """Messages are parsed by upb, the C runtime: the pure-Python one would cost a request tens of milliseconds."""
    assert api_implementation.Type() == "upb"

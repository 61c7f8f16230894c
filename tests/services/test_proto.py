"""The committed stubs are what the proto file says, and the wire has the types that it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from services.pb import recsys_pb2 as pb

STUBS = ("recsys_pb2.py", "recsys_pb2_grpc.py", "recsys_pb2.pyi", "recsys_pb2_grpc.pyi")


@pytest.fixture(scope="module")
def generated(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    programs = Path(sys.executable).parent
    plugins = [f"--plugin={name}={programs / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iservices/pb=protos/recsys/v1", *outputs, *plugins]
    subprocess.run([*command, "protos/recsys/v1/recsys.proto"], check=True, cwd=repository, capture_output=True)
    return out / "services" / "pb"


@pytest.mark.parametrize("name", STUBS)
def test_committed_stubs_are_those_of_the_proto_file(name: str, generated: Path, repository: Path) -> None:
    assert (repository / "services" / "pb" / name).read_text() == (generated / name).read_text()


@pytest.mark.parametrize("message", pb.DESCRIPTOR.message_types_by_name.values(), ids=lambda message: message.name)
def test_lists_of_ids_are_packed_sfixed64_and_lists_of_scores_packed_float(message: object) -> None:
    for field in message.fields:  # type: ignore[attr-defined]
        if field.is_repeated and (field.name.endswith("item_ids") or field.name == "history"):
            assert field.type == FieldDescriptor.TYPE_SFIXED64
            assert field.is_packed
        if field.is_repeated and field.name in ("scores", "p_click", "p_conversion"):
            assert field.type == FieldDescriptor.TYPE_FLOAT
        if field.name.endswith("masks"):
            assert field.type == FieldDescriptor.TYPE_FIXED32


@pytest.mark.parametrize("name", ["user_id", "item_id", "event_id", "click_id"])
def test_scalar_ids_know_whether_they_are_there(name: str) -> None:
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        if name in message.fields_by_name:
            assert message.fields_by_name[name].has_presence, message.name


def test_every_int64_is_an_id() -> None:
    for user in (0, -1, -(2**63), 2**63 - 1):
        assert pb.RecallRequest.FromString(pb.RecallRequest(user_id=user).SerializeToString()).user_id == user


def test_values_of_enums_begin_with_their_name() -> None:
    prefixes = {
        "EventType": "EVENT_TYPE_",
        "ChannelStatus": "CHANNEL_STATUS_",
        "UserState": "USER_STATE_",
        "Stage": "STAGE_",
    }
    assert set(pb.DESCRIPTOR.enum_types_by_name) == set(prefixes)
    for name, kind in pb.DESCRIPTOR.enum_types_by_name.items():
        assert kind.values_by_number[0].name == f"{prefixes[name]}UNSPECIFIED"
        assert all(value.startswith(prefixes[name]) for value in kind.values_by_name)


def test_recommend_asks_with_the_fields_of_recall() -> None:
    recall, recommend = pb.RecallRequest.DESCRIPTOR, pb.RecommendRequest.DESCRIPTOR
    assert {f.name: f.number for f in recall.fields} == {f.name: f.number for f in recommend.fields}

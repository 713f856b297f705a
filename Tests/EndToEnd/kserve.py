"""Messages of KServe's Open Inference Protocol v2 and of grpc.health.v1, described by their published field numbers.

Built here and not from the repository's own .proto files, so that a wrong number there does not go unnoticed.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_LABEL_REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
_TYPES = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
}

# message: [(field, number, type, repeated)]
_MESSAGES = {
    "ServerLiveRequest": [],
    "ServerLiveResponse": [("live", 1, "bool", False)],
    "ServerReadyRequest": [],
    "ServerReadyResponse": [("ready", 1, "bool", False)],
    "ServerMetadataRequest": [],
    "ModelMetadataRequest": [("name", 1, "string", False), ("version", 2, "string", False)],
    "TensorMetadata": [("name", 1, "string", False), ("datatype", 2, "string", False), ("shape", 3, "int64", True)],
    "ModelMetadataResponse": [
        ("name", 1, "string", False),
        ("versions", 2, "string", True),
        ("platform", 3, "string", False),
        ("inputs", 4, "TensorMetadata", True),
        ("outputs", 5, "TensorMetadata", True),
    ],
    "ModelReadyRequest": [("name", 1, "string", False), ("version", 2, "string", False)],
    "ModelReadyResponse": [("ready", 1, "bool", False)],
    "InferTensorContents": [("bytes_contents", 8, "bytes", True)],
    "InferTensor": [
        ("name", 1, "string", False),
        ("datatype", 2, "string", False),
        ("shape", 3, "int64", True),
        ("contents", 5, "InferTensorContents", False),
    ],
    "InferParameter": [("bool_param", 1, "bool", False), ("int64_param", 2, "int64", False)],
    # An entry of a map, as it stands on the wire.
    "InferParameterEntry": [("key", 1, "string", False), ("value", 2, "InferParameter", False)],
    "ModelInferRequest": [
        ("model_name", 1, "string", False),
        ("model_version", 2, "string", False),
        ("id", 3, "string", False),
        ("parameters", 4, "InferParameterEntry", True),
        ("inputs", 5, "InferTensor", True),
        ("raw_input_contents", 7, "bytes", True),
    ],
    "ModelInferResponse": [
        ("model_name", 1, "string", False),
        ("model_version", 2, "string", False),
        ("id", 3, "string", False),
        ("outputs", 5, "InferTensor", True),
        ("raw_output_contents", 6, "bytes", True),
    ],
    "ModelStreamInferResponse": [
        ("error_message", 1, "string", False),
        ("infer_response", 2, "ModelInferResponse", False),
    ],
    "HealthCheckRequest": [("service", 1, "string", False)],
    "HealthCheckResponse": [("status", 1, "int32", False)],
}

SERVING = 1


def _build():
    file = descriptor_pb2.FileDescriptorProto(name="swiftlet_tests.proto", package="swiftlet_tests", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            added = message.field.add(name=field, number=number)
            added.label = _LABEL_REPEATED if repeated else descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                added.type_name = f".swiftlet_tests.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"swiftlet_tests.{name}"))
        for name in _MESSAGES
    }


MESSAGES = _build()


def method(channel, path, request, response, kind="unary_unary"):
    """A callable of `channel` for one method with typed messages."""
    return getattr(channel, kind)(
        path,
        request_serializer=MESSAGES[request].SerializeToString,
        response_deserializer=MESSAGES[response].FromString,
    )


def infer_request(text, model="stub-model", identifier="r-1"):
    """A ModelInfer request with one BYTES tensor that holds the prompt."""
    request = MESSAGES["ModelInferRequest"](model_name=model, id=identifier)
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    return request


def infer_text(response):
    """The text of the answer, whether it stands in typed or in raw contents (4-byte little-endian length)."""
    output = response.outputs[0]
    assert output.datatype == "BYTES"
    if output.contents.bytes_contents:
        return output.contents.bytes_contents[0].decode()
    raw = response.raw_output_contents[0]
    assert int.from_bytes(raw[:4], "little") == len(raw) - 4
    return raw[4:].decode()

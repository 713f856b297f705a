"""Messages of vLLM's and SGLang's gRPC services, from proto/: protoc-c, which makes our C code of them, describes them too."""

import pathlib
import subprocess
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import processes

SERVICE = "vllm.grpc.engine.VllmEngine"


def _build():
    folder = processes.REPOSITORY / "proto"
    with tempfile.TemporaryDirectory() as scratch:
        target = pathlib.Path(scratch) / "descriptors"
        subprocess.run(
            ["protoc-c", f"--proto_path={folder}", f"--descriptor_set_out={target}", "vllm_engine.proto", "sglang_scheduler.proto"],
            check=True,
        )
        files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)

    def messages_of(file):
        return {
            name: message_factory.GetMessageClass(descriptor)
            for name, descriptor in pool.FindFileByName(file).message_types_by_name.items()
        }

    return pool.FindServiceByName(SERVICE), messages_of("vllm_engine.proto"), messages_of("sglang_scheduler.proto")


SERVICE_DESCRIPTOR, MESSAGES, SGLANG_MESSAGES = _build()


def call(channel, name):
    """The method of that name as a callable of `channel`."""
    method = SERVICE_DESCRIPTOR.methods_by_name[name]
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    return kind(
        f"/{SERVICE}/{name}",
        request_serializer=MESSAGES[method.input_type.name].SerializeToString,
        response_deserializer=MESSAGES[method.output_type.name].FromString,
    )


def generate_request(tokens=None, text=None, stream=True, request_id="g-1", rank=None, **sampling):
    request = MESSAGES["GenerateRequest"](
        request_id=request_id, stream=stream, sampling_params=MESSAGES["SamplingParams"](**sampling)
    )
    if tokens is not None:
        request.tokenized.input_ids.extend(tokens)
        request.tokenized.SetInParent()
    if text is not None:
        request.text = text
    if rank is not None:
        request.data_parallel_rank = rank
    return request

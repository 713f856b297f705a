import Glibc
import Protos

/// What the stub reads of a `ModelInferRequest`.
struct InferenceRequest {
    var model = ""
    var id = ""
    /// The first element of the tensor "text_input" or "prompt".
    var text: [UInt8]?
    /// The tensors came in `raw_input_contents`, and the answer goes out alike.
    var isRaw = false
    var maximumTokens: Int?
    var seed: UInt64 = 0
    var ignoresEnd = false

    /// Reads one message; nil when it is not one.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard
            let message = inference__model_infer_request__unpack(
                nil, bytes.count, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self))
        else { return nil }
        defer { inference__model_infer_request__free_unpacked(message, nil) }
        model = String(cString: message.pointee.model_name)
        id = String(cString: message.pointee.id)
        isRaw = message.pointee.n_raw_input_contents > 0
        readInputs(of: message.pointee)
        readParameters(of: message.pointee)
    }

    private mutating func readInputs(of message: Inference__ModelInferRequest) {
        for index in 0..<message.n_inputs {
            guard let input = message.inputs[index]?.pointee else { continue }
            let name = String(cString: input.name)
            guard name == "text_input" || name == "prompt", String(cString: input.datatype) == "BYTES" else { continue }
            if isRaw {
                guard index < message.n_raw_input_contents else { return }
                text = Self.firstElement(of: message.raw_input_contents[index])
            } else if let contents = input.contents?.pointee, contents.n_bytes_contents > 0 {
                let data = contents.bytes_contents[0]
                text = Array(UnsafeBufferPointer(start: data.data, count: data.len))
            }
            return
        }
    }

    /// In the raw form an element of a BYTES tensor is its length, four bytes little-endian, and its bytes.
    private static func firstElement(of data: ProtobufCBinaryData) -> [UInt8]? {
        let raw = UnsafeRawBufferPointer(start: data.data, count: data.len)
        guard raw.count >= 4 else { return nil }
        let length = Int(UInt32(littleEndian: raw.loadUnaligned(as: UInt32.self)))
        guard length <= raw.count - 4 else { return nil }
        return Array(raw[4..<(4 + length)])
    }

    private mutating func readParameters(of message: Inference__ModelInferRequest) {
        for index in 0..<message.n_parameters {
            guard let entry = message.parameters[index]?.pointee, let value = entry.value?.pointee else { continue }
            switch (String(cString: entry.key), value.parameter_choice_case) {
            case ("max_tokens", INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_INT64_PARAM):
                maximumTokens = Int(value.int64_param)
            case ("max_tokens", INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_UINT64_PARAM):
                maximumTokens = Int(clamping: value.uint64_param)
            case ("seed", INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_INT64_PARAM):
                seed = UInt64(truncatingIfNeeded: value.int64_param)
            case ("ignore_eos", INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_BOOL_PARAM):
                ignoresEnd = value.bool_param != 0
            default: break
            }
        }
    }
}

/// Writes the protocol's answers.
enum InferenceMessages {
    /// A `ModelInferResponse` with one BYTES tensor "text_output", or such a one inside a `ModelStreamInferResponse`.
    static func response(to request: InferenceRequest, model: String, text: [UInt8], isStreamed: Bool) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Inference__ModelInferResponse.self) else { return [] }
        inference__model_infer_response__init(response)
        response.pointee.model_name = strdup(model)
        response.pointee.id = strdup(request.id)
        addOutput(text, isRaw: request.isRaw, to: response)
        if !isStreamed {
            defer { inference__model_infer_response__free_unpacked(response, nil) }
            return ProtobufMemory.pack(response)
        }
        guard let wrapper = ProtobufMemory.allocate(Inference__ModelStreamInferResponse.self) else { return [] }
        inference__model_stream_infer_response__init(wrapper)
        wrapper.pointee.infer_response = response
        defer { inference__model_stream_infer_response__free_unpacked(wrapper, nil) }
        return ProtobufMemory.pack(wrapper)
    }

    /// A `ModelStreamInferResponse` that says what went wrong with one request; the stream goes on.
    static func failure(of request: InferenceRequest, _ message: String) -> [UInt8] {
        guard let wrapper = ProtobufMemory.allocate(Inference__ModelStreamInferResponse.self),
            let response = ProtobufMemory.allocate(Inference__ModelInferResponse.self)
        else { return [] }
        inference__model_infer_response__init(response)
        response.pointee.id = strdup(request.id)
        inference__model_stream_infer_response__init(wrapper)
        wrapper.pointee.infer_response = response
        wrapper.pointee.error_message = strdup(message)
        defer { inference__model_stream_infer_response__free_unpacked(wrapper, nil) }
        return ProtobufMemory.pack(wrapper)
    }

    private static func addOutput(_ text: [UInt8], isRaw: Bool, to response: UnsafeMutablePointer<Inference__ModelInferResponse>) {
        guard let output = ProtobufMemory.allocate(Inference__ModelInferResponse__InferOutputTensor.self),
            let outputs = ProtobufMemory.allocate(UnsafeMutablePointer<Inference__ModelInferResponse__InferOutputTensor>?.self),
            let shape = ProtobufMemory.allocate(Int64.self), let element = ProtobufMemory.allocate(ProtobufCBinaryData.self)
        else { return }
        inference__model_infer_response__infer_output_tensor__init(output)
        output.pointee.name = strdup("text_output")
        output.pointee.datatype = strdup("BYTES")
        shape.pointee = 1
        output.pointee.shape = shape
        output.pointee.n_shape = 1
        outputs.pointee = output
        response.pointee.outputs = outputs
        response.pointee.n_outputs = 1
        if isRaw {
            let length = withUnsafeBytes(of: UInt32(truncatingIfNeeded: text.count).littleEndian) { Array($0) }
            element.pointee = ProtobufMemory.copy(length + text)
            response.pointee.raw_output_contents = element
            response.pointee.n_raw_output_contents = 1
        } else if let contents = ProtobufMemory.allocate(Inference__InferTensorContents.self) {
            inference__infer_tensor_contents__init(contents)
            element.pointee = ProtobufMemory.copy(text)
            contents.pointee.bytes_contents = element
            contents.pointee.n_bytes_contents = 1
            output.pointee.contents = contents
        }
    }

    /// `ServerLiveResponse`, `ServerReadyResponse` and `ModelReadyResponse` are one boolean, field 1.
    static func boolean(_ value: Bool) -> [UInt8] { value ? [0x08, 0x01] : [] }

    /// `ServerMetadataResponse`.
    static func serverMetadata() -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Inference__ServerMetadataResponse.self) else { return [] }
        inference__server_metadata_response__init(response)
        response.pointee.name = strdup("swiftlet-stub")
        response.pointee.version = strdup("0.32.0")
        defer { inference__server_metadata_response__free_unpacked(response, nil) }
        return ProtobufMemory.pack(response)
    }

    /// The name in a `ModelMetadataRequest`; nil when it is not one.
    static func metadataName(_ bytes: UnsafeRawBufferPointer) -> String? {
        let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard let message = inference__model_metadata_request__unpack(nil, bytes.count, start) else { return nil }
        defer { inference__model_metadata_request__free_unpacked(message, nil) }
        return String(cString: message.pointee.name)
    }

    /// `ModelMetadataResponse`: one text in, one text out.
    static func modelMetadata(name: String) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Inference__ModelMetadataResponse.self) else { return [] }
        inference__model_metadata_response__init(response)
        response.pointee.name = strdup(name)
        response.pointee.platform = strdup("swiftlet-stub")
        defer { inference__model_metadata_response__free_unpacked(response, nil) }
        if let inputs = tensorList("text_input"), let outputs = tensorList("text_output") {
            (response.pointee.inputs, response.pointee.n_inputs) = (inputs, 1)
            (response.pointee.outputs, response.pointee.n_outputs) = (outputs, 1)
        }
        return ProtobufMemory.pack(response)
    }

    private typealias TensorMetadata = Inference__ModelMetadataResponse__TensorMetadata

    /// A list of one BYTES tensor with one element, to be freed with its message.
    private static func tensorList(_ name: String) -> UnsafeMutablePointer<UnsafeMutablePointer<TensorMetadata>?>? {
        guard let list = ProtobufMemory.allocate(UnsafeMutablePointer<TensorMetadata>?.self),
            let tensor = ProtobufMemory.allocate(TensorMetadata.self), let shape = ProtobufMemory.allocate(Int64.self)
        else { return nil }
        inference__model_metadata_response__tensor_metadata__init(tensor)
        tensor.pointee.name = strdup(name)
        tensor.pointee.datatype = strdup("BYTES")
        shape.pointee = 1
        (tensor.pointee.shape, tensor.pointee.n_shape) = (shape, 1)
        list.pointee = tensor
        return list
    }

    /// The name in a `ModelReadyRequest`; nil when it is not one.
    static func modelName(_ bytes: UnsafeRawBufferPointer) -> String? {
        let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard let message = inference__model_ready_request__unpack(nil, bytes.count, start) else { return nil }
        defer { inference__model_ready_request__free_unpacked(message, nil) }
        return String(cString: message.pointee.name)
    }

    /// The service in a `HealthCheckRequest`; nil when it is not one.
    static func healthService(_ bytes: UnsafeRawBufferPointer) -> String? {
        let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard let message = grpc__health__v1__health_check_request__unpack(nil, bytes.count, start) else { return nil }
        defer { grpc__health__v1__health_check_request__free_unpacked(message, nil) }
        return String(cString: message.pointee.service)
    }

    enum Health: UInt8 {
        case serving = 1
        case notServing = 2
        case serviceUnknown = 3
    }

    /// `HealthCheckResponse`: one enumeration, field 1.
    static func health(_ status: Health) -> [UInt8] { [0x08, status.rawValue] }
}

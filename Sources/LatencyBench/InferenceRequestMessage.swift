import Glibc
import Protos

/// A `ModelInferRequest` of the Open Inference Protocol v2 as engines of text take it. Built of malloc'd pieces, so that protobuf-c's own
/// release frees it whole.
enum InferenceRequestMessage {
    /// Empty when memory has run out.
    static func encode(model: String, text: [UInt8], maximumTokens: Int, ignoresEnd: Bool) -> [UInt8] {
        guard let message = allocate(Inference__ModelInferRequest.self) else { return [] }
        inference__model_infer_request__init(message)
        defer { inference__model_infer_request__free_unpacked(message, nil) }
        message.pointee.model_name = strdup(model)
        addInput(text, to: message)
        addParameters(maximumTokens: maximumTokens, ignoresEnd: ignoresEnd, to: message)
        return [UInt8](unsafeUninitializedCapacity: inference__model_infer_request__get_packed_size(message)) { buffer, count in
            count = inference__model_infer_request__pack(message, buffer.baseAddress)
        }
    }

    private static func addInput(_ text: [UInt8], to message: UnsafeMutablePointer<Inference__ModelInferRequest>) {
        guard let input = allocate(Inference__ModelInferRequest__InferInputTensor.self),
            let inputs = allocate(UnsafeMutablePointer<Inference__ModelInferRequest__InferInputTensor>?.self),
            let shape = allocate(Int64.self), let contents = allocate(Inference__InferTensorContents.self),
            let element = allocate(ProtobufCBinaryData.self),
            let bytes = malloc(max(1, text.count))?.assumingMemoryBound(to: UInt8.self)
        else { return }
        inference__model_infer_request__infer_input_tensor__init(input)
        inference__infer_tensor_contents__init(contents)
        text.withUnsafeBytes { if let base = $0.baseAddress { memcpy(bytes, base, text.count) } }
        element.pointee = ProtobufCBinaryData(len: text.count, data: bytes)
        contents.pointee.bytes_contents = element
        contents.pointee.n_bytes_contents = 1
        shape.pointee = 1
        input.pointee.name = strdup("text_input")
        input.pointee.datatype = strdup("BYTES")
        input.pointee.shape = shape
        input.pointee.n_shape = 1
        input.pointee.contents = contents
        inputs.pointee = input
        message.pointee.inputs = inputs
        message.pointee.n_inputs = 1
    }

    private static func addParameters(
        maximumTokens: Int, ignoresEnd: Bool, to message: UnsafeMutablePointer<Inference__ModelInferRequest>
    ) {
        typealias Entry = Inference__ModelInferRequest__ParametersEntry
        guard let slots = calloc(2, MemoryLayout<UnsafeMutablePointer<Entry>?>.stride) else { return }
        let entries = slots.bindMemory(to: UnsafeMutablePointer<Entry>?.self, capacity: 2)
        message.pointee.parameters = entries
        for name in ["max_tokens", "ignore_eos"] {
            guard let entry = allocate(Entry.self), let value = allocate(Inference__InferParameter.self) else { return }
            inference__model_infer_request__parameters_entry__init(entry)
            inference__infer_parameter__init(value)
            if name == "max_tokens" {
                value.pointee.parameter_choice_case = INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_INT64_PARAM
                value.pointee.int64_param = Int64(maximumTokens)
            } else {
                value.pointee.parameter_choice_case = INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_BOOL_PARAM
                value.pointee.bool_param = ignoresEnd ? 1 : 0
            }
            entry.pointee.key = strdup(name)
            entry.pointee.value = value
            entries[message.pointee.n_parameters] = entry
            message.pointee.n_parameters += 1
        }
    }

    private static func allocate<Value>(_ type: Value.Type) -> UnsafeMutablePointer<Value>? {
        calloc(1, MemoryLayout<Value>.stride)?.bindMemory(to: Value.self, capacity: 1)
    }
}

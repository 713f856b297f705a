import Protos

/// Reads the answers of the Open Inference Protocol v2.
enum InferenceResponseMessage {
    /// The generated text in a `ModelInferResponse`, or in the one inside a `ModelStreamInferResponse`: the first element of its first BYTES
    /// tensor, in either of the protocol's forms. Nil where there is none, or no such message.
    static func text(in bytes: UnsafeRawBufferPointer, isStreamed: Bool) -> [UInt8]? {
        let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard isStreamed else {
            guard let response = inference__model_infer_response__unpack(nil, bytes.count, start) else { return nil }
            defer { inference__model_infer_response__free_unpacked(response, nil) }
            return text(of: response.pointee)
        }
        guard let wrapper = inference__model_stream_infer_response__unpack(nil, bytes.count, start) else { return nil }
        defer { inference__model_stream_infer_response__free_unpacked(wrapper, nil) }
        guard let response = wrapper.pointee.infer_response else { return nil }
        return text(of: response.pointee)
    }

    private static func text(of response: Inference__ModelInferResponse) -> [UInt8]? {
        for index in 0..<response.n_outputs {
            guard let output = response.outputs[index]?.pointee, String(cString: output.datatype) == "BYTES" else { continue }
            if let contents = output.contents?.pointee, contents.n_bytes_contents > 0 {
                let element = contents.bytes_contents[0]
                return Array(UnsafeBufferPointer(start: element.data, count: element.len))
            }
            guard index < response.n_raw_output_contents else { return nil }
            // In the raw form an element is its length, four bytes little-endian, and its bytes.
            let data = response.raw_output_contents[index]
            let raw = UnsafeRawBufferPointer(start: data.data, count: data.len)
            guard raw.count >= 4 else { return nil }
            return Array(raw.dropFirst(4).prefix(Int(UInt32(littleEndian: raw.loadUnaligned(as: UInt32.self)))))
        }
        return nil
    }
}

import Glibc
import Protos

/// Builds messages of malloc'd pieces, so that protobuf-c's own `…_free_unpacked` frees them whole.
enum ProtobufMemory {
    static func allocate<Value>(_ type: Value.Type, count: Int = 1) -> UnsafeMutablePointer<Value>? {
        calloc(max(1, count), MemoryLayout<Value>.stride)?.bindMemory(to: Value.self, capacity: max(1, count))
    }

    static func copy(_ bytes: [UInt8]) -> ProtobufCBinaryData {
        guard let memory = malloc(max(1, bytes.count)) else { return ProtobufCBinaryData() }
        bytes.withUnsafeBytes { source in
            if let base = source.baseAddress { memcpy(memory, base, source.count) }
        }
        return ProtobufCBinaryData(len: bytes.count, data: memory.assumingMemoryBound(to: UInt8.self))
    }

    /// A repeated field of numbers.
    static func array<Value: BitwiseCopyable>(_ values: [Value]) -> UnsafeMutablePointer<Value>? {
        guard !values.isEmpty, let memory = allocate(Value.self, count: values.count) else { return nil }
        memory.update(from: values, count: values.count)
        return memory
    }

    /// Every message of protobuf-c begins with its `ProtobufCMessage`.
    static func pack<Message>(_ message: UnsafeMutablePointer<Message>) -> [UInt8] {
        let base = UnsafeRawPointer(message).assumingMemoryBound(to: ProtobufCMessage.self)
        return [UInt8](unsafeUninitializedCapacity: protobuf_c_message_get_packed_size(base)) { buffer, count in
            count = protobuf_c_message_pack(base, buffer.baseAddress)
        }
    }
}

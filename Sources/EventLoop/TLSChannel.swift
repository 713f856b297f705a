import COpenSSL
import Glibc

/// Where the ciphertext of a loop's TLS connections passes between the socket and OpenSSL: one buffer each way, used by one connection at a
/// time. So a wake costs one `recv` however many records came, and a write one `send` however many records it makes, and idle
/// connections hold no buffer. OpenSSL's own socket BIO would take two calls per record read and one per record written.
///
/// Confined to its loop.
public final class TLSChannel {
    /// What one `recv` takes at most.
    static let inputBytes = 64 << 10

    let state: UnsafeMutablePointer<TLSChannelState>
    /// Ciphertext as it comes from the socket.
    let receiveBuffer: UnsafeMutableRawBufferPointer
    let pool: ChunkPool

    init(pool: ChunkPool) {
        self.pool = pool
        receiveBuffer = .allocate(byteCount: Self.inputBytes, alignment: 64)
        state = .allocate(capacity: 1)
        state.initialize(to: TLSChannelState())
    }

    deinit {
        free(state.pointee.output)
        state.deallocate()
        receiveBuffer.deallocate()
    }

    /// What OpenSSL wrote since the last `clearOutput()`.
    var output: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: state.pointee.output, count: state.pointee.outputCount) }
    func clearOutput() { state.pointee.outputCount = 0 }

    /// A BIO over this channel; nil when memory is out. It must not outlive the channel.
    func makeBIO() -> OpaquePointer? {
        guard let bio = BIO_new(channelMethod) else { return nil }
        BIO_set_data(bio, state)
        BIO_set_init(bio, 1)
        return bio
    }
}

/// Plain memory, so that OpenSSL's calls touch no reference count.
struct TLSChannelState {
    var input: UnsafeRawPointer?
    var inputCount = 0
    var output: UnsafeMutableRawPointer?
    var outputCount = 0
    var outputCapacity = 0

    /// Room for `count` more bytes of output. False when memory is out.
    mutating func makeRoom(_ count: Int) -> Bool {
        if outputCount &+ count <= outputCapacity { return true }
        let grown = max(96 << 10, max(outputCapacity &* 2, outputCount &+ count))
        guard let fresh = realloc(output, grown) else { return false }
        output = fresh
        outputCapacity = grown
        return true
    }
}

private let readFromChannel: @convention(c) (OpaquePointer?, UnsafeMutablePointer<CChar>?, CInt) -> CInt = { bio, buffer, capacity in
    guard let data = BIO_get_data(bio), let buffer, capacity > 0 else { return -1 }
    let state = data.assumingMemoryBound(to: TLSChannelState.self)
    let count = min(Int(capacity), state.pointee.inputCount)
    guard count > 0, let input = state.pointee.input else {
        BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY)
        return -1
    }
    BIO_clear_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY)
    memcpy(buffer, input, count)
    state.pointee.input = input + count
    state.pointee.inputCount &-= count
    return CInt(truncatingIfNeeded: count)
}

private let writeToChannel: @convention(c) (OpaquePointer?, UnsafePointer<CChar>?, CInt) -> CInt = { bio, bytes, count in
    guard let data = BIO_get_data(bio), let bytes, count > 0 else { return 0 }
    let state = data.assumingMemoryBound(to: TLSChannelState.self)
    BIO_clear_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY)
    guard state.pointee.makeRoom(Int(count)), let output = state.pointee.output else { return -1 }
    memcpy(output + state.pointee.outputCount, bytes, Int(count))
    state.pointee.outputCount &+= Int(count)
    return count
}

private let controlChannel: @convention(c) (OpaquePointer?, CInt, Int, UnsafeMutableRawPointer?) -> Int = { _, command, _, _ in
    // A flush has nothing to do: the caller sends what was written. Everything else is not supported.
    command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP ? 1 : 0
}

// Unsafe: made once, never changed, and OpenSSL only reads it.
private nonisolated(unsafe) let channelMethod: OpaquePointer? = {
    let method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "loop channel")
    BIO_meth_set_read(method, readFromChannel)
    BIO_meth_set_write(method, writeToChannel)
    BIO_meth_set_ctrl(method, controlChannel)
    return method
}()

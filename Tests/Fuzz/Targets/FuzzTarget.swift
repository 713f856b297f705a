/// A function that any bytes may be given to. It traps or throws where the code under test breaks a promise.
///
/// This folder's story: one `FuzzTarget` per border that hostile bytes cross. libFuzzer calls it (`make fuzz`), and the unit tests replay
/// the committed corpora and every input that once failed, without libFuzzer.
public struct FuzzTarget: Sendable {
    public let name: String
    public let run: @Sendable (UnsafeRawBufferPointer) throws -> Void
    /// Bytes of an input at most: longer ones find nothing more and cost time.
    public let maximumBytes: Int

    init(_ name: String, maximumBytes: Int = 4_096, _ run: @escaping @Sendable (UnsafeRawBufferPointer) throws -> Void) {
        self.name = name
        self.maximumBytes = maximumBytes
        self.run = run
    }

    public static let all: [FuzzTarget] = [
        FuzzTarget("request-head", fuzzRequestHead), FuzzTarget("response-head", fuzzResponseHead), FuzzTarget("chunked", fuzzChunked),
        FuzzTarget("grpc", fuzzGRPCFraming), FuzzTarget("scanner", fuzzResponseScanner), FuzzTarget("probe", fuzzRequestProbe),
        FuzzTarget("configuration", fuzzConfiguration), FuzzTarget("downstream", fuzzDownstream),
        FuzzTarget("upstream-http1", fuzzUpstreamHTTP1), FuzzTarget("upstream-http2", fuzzUpstreamHTTP2),
        FuzzTarget("proxy", fuzzProxy), FuzzTarget("engine-metrics", fuzzEngineMetrics), FuzzTarget("load-header", fuzzLoadHeader),
        FuzzTarget("engine-backlog", fuzzEngineBacklog), FuzzTarget("engine-loads", fuzzEngineLoads),
        FuzzTarget("grpc-call", fuzzCall), FuzzTarget("replica-envelope", fuzzReplicaEnvelope),
        FuzzTarget("replica-message", fuzzReplicaMessage),
    ]
}

/// A promise that was broken.
public struct FuzzFinding: Error, CustomStringConvertible {
    public let description: String
}

func check(_ condition: Bool, _ promise: @autoclosure () -> String) throws {
    if !condition { throw FuzzFinding(description: promise()) }
}

func checkEqual<Value: Equatable>(_ left: Value, _ right: Value, _ promise: @autoclosure () -> String) throws {
    if left != right { throw FuzzFinding(description: "\(promise()): \(left) and \(right)") }
}

/// Cuts an input into pieces. Seed 0 leaves it whole, 1 gives single bytes, others pieces of up to 16 or up to 512 bytes.
struct Pieces {
    private var state: UInt64
    private let largest: Int

    init(seed: UInt8) {
        state = UInt64(seed) &* 0x9E37_79B9_7F4A_7C15 | 1
        largest = seed == 0 ? Int.max : seed == 1 ? 1 : seed < 128 ? 16 : 512
    }

    mutating func next(of remaining: Int) -> Int {
        guard largest > 1, largest != Int.max else { return min(largest, remaining) }
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return min(remaining, 1 + Int(state % UInt64(largest)))
    }

    static func cut(_ bytes: UnsafeRawBufferPointer, seed: UInt8) -> [UnsafeRawBufferPointer] {
        var pieces = Pieces(seed: seed)
        var result: [UnsafeRawBufferPointer] = []
        var at = 0
        while at < bytes.count {
            let count = pieces.next(of: bytes.count - at)
            result.append(UnsafeRawBufferPointer(rebasing: bytes[at..<at + count]))
            at += count
        }
        return result
    }
}

extension UnsafeRawBufferPointer {
    /// The first byte, which says how to go about the rest; and the rest.
    var split: (control: UInt8, rest: UnsafeRawBufferPointer)? {
        guard let control = first else { return nil }
        return (control, UnsafeRawBufferPointer(rebasing: dropFirst()))
    }
}

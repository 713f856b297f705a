import HTTPTransport
import Wire

/// The gRPC services that tell an engine's load: `vllm serve --grpc` and SGLang's `--grpc-mode`, both by the servicers of lightseekorg/smg.
enum LoadService: CaseIterable {
    case vllm, sglang

    var engine: EngineKind {
        switch self {
        case .vllm: .vllm
        case .sglang: .sglang
        }
    }

    private var path: StaticString {
        switch self {
        case .vllm: "/vllm.grpc.engine.VllmEngine/GetLoads"
        case .sglang: "/sglang.grpc.scheduler.SglangScheduler/GetLoads"
        }
    }

    /// A `GetLoadsRequest` of either package in its frame, with `include: "core"`: SGLang's scheduler, which is busy with its steps, would
    /// otherwise work out memory, adapters and queues, too. vLLM has nothing else.
    static let question: [UInt8] = [0, 0, 0, 0, 6, 0x12, 4] + Array("core".utf8)

    /// - Parameter timeoutNanoseconds: after which the engine need not answer any more.
    func request(timeoutNanoseconds: UInt64) -> UpstreamRequest {
        let head = RequestHead()
        head.setMethod("POST")
        head.setTarget(path)
        head.headers.append("content-type", "application/grpc")
        withUnsafeTemporaryAllocation(byteCount: GRPCTimeout.maximumBytes, alignment: 1) { text in
            let length = GRPCTimeout.write(nanoseconds: timeoutNanoseconds, into: text)
            head.headers.append("grpc-timeout", UnsafeRawBufferPointer(rebasing: text[..<length]))
        }
        return UpstreamRequest(head: head, bodyLength: nil, hasBody: true, acceptsTrailers: true)
    }

    /// What a call's status makes of it (grpc/grpc, doc/statuscodes.md); nil: it went well.
    static func failure(status: UnsafeRawBufferPointer?) -> ScrapeOutcome? {
        switch status?.decimalValue {
        case 0: nil
        case 4 /* DEADLINE_EXCEEDED */: .timeout
        case 12 /* UNIMPLEMENTED */: .missing
        case 7 /* PERMISSION_DENIED */, 16 /* UNAUTHENTICATED */: .refused
        case nil: .unknown
        default: .error
        }
    }
}

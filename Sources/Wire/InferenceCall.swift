/// The gRPC methods whose messages say what routing needs: the prompt of the first request, and what the answers used of it.
///
/// Sources: `vllm_engine.proto` of vLLM's servicer (smg), KServe's Open Inference Protocol v2 with Triton's streaming call; of both what
/// is in `proto/`.
public enum InferenceCall: Sendable, CaseIterable {
    /// vLLM's own service: a prompt as text or token ids; a message per token, or one for all.
    case generate
    /// Open Inference Protocol: one request, one answer.
    case modelInfer
    /// Triton's extension: requests and answers as they come.
    case modelStreamInfer

    /// - Parameter path: a request's `:path`. Nil for every other method.
    public init?(path: UnsafeRawBufferPointer) {
        switch path.count {
        case 37 where path.equals("/vllm.grpc.engine.VllmEngine/Generate"): self = .generate
        case 42 where path.equals("/inference.GRPCInferenceService/ModelInfer"): self = .modelInfer
        case 48 where path.equals("/inference.GRPCInferenceService/ModelStreamInfer"): self = .modelStreamInfer
        default: return nil
        }
    }
}

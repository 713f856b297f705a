/// The gRPC methods that a stub knows, by their paths.
enum GRPCMethod: String {
    case serverLive = "/inference.GRPCInferenceService/ServerLive"
    case serverReady = "/inference.GRPCInferenceService/ServerReady"
    case serverMetadata = "/inference.GRPCInferenceService/ServerMetadata"
    case modelMetadata = "/inference.GRPCInferenceService/ModelMetadata"
    case modelReady = "/inference.GRPCInferenceService/ModelReady"
    case modelInfer = "/inference.GRPCInferenceService/ModelInfer"
    case modelStreamInfer = "/inference.GRPCInferenceService/ModelStreamInfer"
    case healthCheck = "/grpc.health.v1.Health/Check"
    case healthWatch = "/grpc.health.v1.Health/Watch"
    case generate = "/vllm.grpc.engine.VllmEngine/Generate"
    case embed = "/vllm.grpc.engine.VllmEngine/Embed"
    case engineHealth = "/vllm.grpc.engine.VllmEngine/HealthCheck"
    case flushCache = "/vllm.grpc.engine.VllmEngine/FlushCache"
    case abort = "/vllm.grpc.engine.VllmEngine/Abort"
    case modelInfo = "/vllm.grpc.engine.VllmEngine/GetModelInfo"
    case serverInfo = "/vllm.grpc.engine.VllmEngine/GetServerInfo"
    case loads = "/vllm.grpc.engine.VllmEngine/GetLoads"

    /// Names that health is asked for.
    static let services: Set<String> = [
        "", "inference.GRPCInferenceService", "vllm.grpc.engine.VllmEngine", "grpc.health.v1.Health",
    ]

    /// Whether it asks for work of the engine: what faults without a path strike.
    var generates: Bool {
        switch self {
        case .modelInfer, .modelStreamInfer, .generate, .embed: true
        default: false
        }
    }
}

// swift-tools-version: 6.1
import PackageDescription

/// Every target of ours is compiled alike: Swift 6 mode, and `any` spelled out so that an existential shows in review.
let swift: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// The data path is spread over several modules, and without cross-module optimisation small accessors would stay calls across
/// their borders. Its objects are confined to one thread each; checking that at run time was a third of all instructions of a proxied
/// request (callgrind), so the release build leaves it out and the debug build, which the tests run, keeps it.
let hot: [SwiftSetting] =
    swift + [.unsafeFlags(["-cross-module-optimization", "-enforce-exclusivity=unchecked"], .when(configuration: .release))]

let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let heap: Target.Dependency = .product(name: "HeapModule", package: "swift-collections")
let deque: Target.Dependency = .product(name: "DequeModule", package: "swift-collections")
let histogram: Target.Dependency = .product(name: "Histogram", package: "hdrhistogram-swift")

let package = Package(
    name: "swiftlet",
    products: [.executable(name: "swiftlet", targets: ["swiftlet"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // C: module maps over Debian's libraries, with static inline shims where Swift cannot see a macro.
        .systemLibrary(name: "CLinux"),
        .systemLibrary(name: "CNghttp2", pkgConfig: "libnghttp2", providers: [.apt(["libnghttp2-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CCares", pkgConfig: "libcares", providers: [.apt(["libc-ares-dev"])]),
        .systemLibrary(name: "CVector"),
        .systemLibrary(name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
        .systemLibrary(name: "CProtobufC", pkgConfig: "libprotobuf-c", providers: [.apt(["libprotobuf-c-dev"])]),
        .target(name: "CSimdJSON", linkerSettings: [.linkedLibrary("simdjson")]),
        .target(name: "Protos", dependencies: ["CProtobufC"], exclude: ["generated-from.sha256"]),

        // Pure: no I/O, no clock.
        .target(name: "Routing", dependencies: ["CVector", "CXXHash"], swiftSettings: hot),
        .target(name: "Wire", dependencies: ["CNghttp2", "CSimdJSON", "CXXHash"], swiftSettings: hot),
        .target(name: "EngineModel", dependencies: ["CXXHash", deque], swiftSettings: hot),
        .target(name: "Workload", dependencies: [], swiftSettings: swift),

        // Mechanism.
        .target(name: "EventLoop", dependencies: ["CLinux", "COpenSSL", heap], swiftSettings: hot),
        .target(name: "HTTPTransport", dependencies: ["EventLoop", "Wire", "CNghttp2"], swiftSettings: hot),
        .target(name: "Telemetry", dependencies: [], swiftSettings: hot),
        .target(name: "Configuration", dependencies: ["Routing", yams], swiftSettings: swift),
        .target(name: "Reporting", dependencies: [histogram], swiftSettings: swift),
        .target(
            name: "KubernetesAPI", dependencies: ["EventLoop", "HTTPTransport", "Wire", yams], swiftSettings: swift),

        // Assembly.
        .target(
            name: "Proxy", dependencies: ["CXXHash", "EventLoop", "HTTPTransport", "Protos", "Routing", "Telemetry", "Wire"],
            swiftSettings: hot),
        .target(
            name: "Discovery", dependencies: ["CCares", "EventLoop", "HTTPTransport", "KubernetesAPI", "Routing", yams],
            swiftSettings: swift),
        .target(name: "LoadSignals", dependencies: ["EventLoop", "HTTPTransport", "Protos", "Routing", "Wire"], swiftSettings: swift),
        .target(
            name: "ReplicaSync", dependencies: ["CLinux", "COpenSSL", "Discovery", "EventLoop", "Routing"], swiftSettings: swift),
        .target(
            name: "Admin",
            dependencies: [
                "Discovery", "EventLoop", "HTTPTransport", "KubernetesAPI", "LoadSignals", "Proxy", "ReplicaSync", "Routing", "Telemetry",
                "Wire",
            ],
            swiftSettings: swift),
        .target(
            name: "StubEngine", dependencies: ["EngineModel", "EventLoop", "HTTPTransport", "Protos", "Wire"],
            swiftSettings: hot),
        .target(
            name: "Simulation", dependencies: ["EngineModel", "Reporting", "Routing", "Workload", deque, heap, histogram],
            swiftSettings: hot),
        .target(
            name: "LatencyBench",
            dependencies: [
                "CLinux", "EventLoop", "HTTPTransport", "Protos", "Reporting", "Routing", "Wire", "Workload", deque, heap, histogram,
            ],
            swiftSettings: swift),

        // Programs.
        .executableTarget(
            name: "swiftlet",
            dependencies: [
                "Admin", "CLinux", "Configuration", "Discovery", "KubernetesAPI", "LatencyBench", "LoadSignals", "Proxy", "ReplicaSync",
                "Reporting", "Simulation",
                "StubEngine", "Workload",
                argumentParser, logging,
            ], swiftSettings: swift),

        // What a decision costs; see the head of its main.swift.
        .executableTarget(
            name: "swiftlet-benchmarks", dependencies: ["Routing", "Wire"], path: "Tests/Benchmarks",
            exclude: ["kubernetes_load.py", "replica_sync.py"], swiftSettings: hot),
        .testTarget(name: "RoutingTests", dependencies: ["Routing"], swiftSettings: swift),
        // A second opinion on every head that our parser takes.
        .systemLibrary(name: "CHTTPParser", path: "Tests/CHTTPParser", providers: [.apt(["libhttp-parser-dev"])]),
        .testTarget(name: "WireTests", dependencies: ["CHTTPParser", "Wire"], swiftSettings: swift),
        .testTarget(name: "EngineModelTests", dependencies: ["EngineModel"], swiftSettings: swift),
        .testTarget(name: "EventLoopTests", dependencies: ["EventLoop"], swiftSettings: swift),
        .testTarget(name: "TelemetryTests", dependencies: ["Telemetry"], swiftSettings: swift),
        .testTarget(name: "ConfigurationTests", dependencies: ["Configuration"], swiftSettings: swift),
        .testTarget(name: "HTTPTransportTests", dependencies: ["CNghttp2", "EventLoop", "HTTPTransport"], swiftSettings: swift),
        .testTarget(
            name: "StubEngineTests", dependencies: ["EngineModel", "EventLoop", "HTTPTransport", "StubEngine"], swiftSettings: swift),
        .testTarget(name: "WorkloadTests", dependencies: ["Workload"], swiftSettings: swift),
        .testTarget(
            name: "SimulationTests", dependencies: ["EngineModel", "Reporting", "Routing", "Simulation", "Workload"], swiftSettings: swift),
        .testTarget(name: "ReportingTests", dependencies: ["Reporting", histogram], swiftSettings: swift),
        .testTarget(
            name: "LatencyBenchTests", dependencies: ["LatencyBench", "Reporting", "Routing", "Workload", histogram], swiftSettings: swift),
        .testTarget(
            name: "LoadSignalsTests", dependencies: ["EngineModel", "EventLoop", "HTTPTransport", "LoadSignals", "Routing", "Wire"],
            swiftSettings: swift),
        .testTarget(name: "ReplicaSyncTests", dependencies: ["EventLoop", "ReplicaSync", "Routing"], swiftSettings: swift),
        .testTarget(name: "KubernetesAPITests", dependencies: ["KubernetesAPI"], swiftSettings: swift),
        .testTarget(name: "DiscoveryTests", dependencies: ["Discovery", "KubernetesAPI"], swiftSettings: swift),
        .testTarget(name: "TidyTests", dependencies: [], swiftSettings: swift),

        // What hostile bytes reach, as functions: libFuzzer calls them (below), and the unit tests replay the committed inputs.
        .target(
            name: "FuzzTargets",
            dependencies: [
                "Configuration", "EventLoop", "HTTPTransport", "LoadSignals", "Proxy", "ReplicaSync", "Routing", "Telemetry", "Wire",
            ],
            path: "Tests/Fuzz/Targets", swiftSettings: swift),
        .testTarget(name: "FuzzTests", dependencies: ["FuzzTargets"], swiftSettings: swift),
    ],
    cxxLanguageStandard: .cxx17
)

// It links libFuzzer, which only the toolchain's `-sanitize=fuzzer` brings: `make fuzz` asks for it.
if Context.environment["SWIFTLET_FUZZ"] != nil {
    package.targets.append(
        .executableTarget(name: "swiftlet-fuzz", dependencies: ["FuzzTargets"], path: "Tests/Fuzz/Program", swiftSettings: swift))
}

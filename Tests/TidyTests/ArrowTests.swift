import Testing

/// The floors of the house, lowest first. A target may use its own floor and those below.
private enum Floor: Int {
    case c, pure, mechanism, assembly, programs
}

private let floors: [String: Floor] = [
    "CCares": .c, "CHTTPParser": .c, "CLinux": .c, "CNghttp2": .c, "COpenSSL": .c, "CProtobufC": .c, "CSimdJSON": .c, "CVector": .c,
    "CXXHash": .c, "Protos": .c,
    "EngineModel": .pure, "Routing": .pure, "Wire": .pure, "Workload": .pure,
    "Configuration": .mechanism, "EventLoop": .mechanism, "HTTPTransport": .mechanism, "KubernetesAPI": .mechanism,
    "Reporting": .mechanism, "Telemetry": .mechanism,
    "Admin": .assembly, "Discovery": .assembly, "LatencyBench": .assembly, "LoadSignals": .assembly, "Proxy": .assembly,
    "ReplicaSync": .assembly, "Simulation": .assembly, "StubEngine": .assembly,
    "swiftlet": .programs,
]

/// Where a request's bytes pass: Foundation would bring its allocations, its start time and its memory.
private let dataPath: Set<String> = ["EngineModel", "EventLoop", "HTTPTransport", "Proxy", "Routing", "Telemetry", "Wire"]

/// The modules that Swift source imports, whatever stands before the keyword.
private func imports(of text: String) -> [String] {
    text.split(separator: "\n").compactMap { line in
        guard line.utf8.contains(UInt8(ascii: "i")), line.contains("import ") else { return nil }
        let statement = /^\s*(?:@\w+(?:\(\w+\))?\s+)*(?:(?:public|package|internal|fileprivate|private)\s+)?import\s+/
            .ignoresCase(false)
        guard let start = line.prefixMatch(of: statement) else { return nil }
        let words = line[start.range.upperBound...].split { $0 == " " || $0 == ";" }
        let kinds: Set<Substring> = ["struct", "class", "enum", "protocol", "func", "var", "let", "typealias"]
        guard let first = words.first else { return nil }
        let path = kinds.contains(first) && words.count > 1 ? words[1] : first
        return path.split(separator: ".").first.map(String.init)
    }
}

/// What is wrong with `target` importing `module`, if anything.
private func complaint(_ target: String, imports module: String) -> String? {
    if dataPath.contains(target), module.hasPrefix("Foundation") { return "\(target) is on the data path and imports \(module)" }
    guard let from = floors[target], let to = floors[module], to.rawValue > from.rawValue else { return nil }
    return "\(target) (\(from)) imports \(module) (\(to)), which is above it"
}

@Suite struct ArrowTests {
    @Test func everyTargetHasAFloor() throws {
        let missing = try SourceTree.folders("Sources").filter { floors[$0] == nil }
        #expect(missing.isEmpty, "Give new targets a floor in this file")
    }

    @Test func arrowsPointDownwards() throws {
        let files = try SourceTree.files("Sources", ["swift"])
        #expect(!files.isEmpty)
        for file in files {
            for module in imports(of: file.text) {
                if let complaint = complaint(file.target, imports: module) { Issue.record("\(file.path): \(complaint)") }
            }
        }
    }

    /// A dependency that is declared and not imported would still be linked.
    @Test func declaredDependenciesPointDownwards() throws {
        let package = try SourceTree.text("Package.swift")
        var seen = 0
        for match in package.matches(of: /name: "(\w+)",\s*dependencies: \[([^\]]*)\]/) where floors[String(match.1)] != nil {
            for dependency in match.2.matches(of: /"(\w+)"/) {
                seen += 1
                if let complaint = complaint(String(match.1), imports: String(dependency.1)) { Issue.record("\(complaint)") }
            }
        }
        #expect(seen > 20, "Package.swift is not read as it is written")
    }

    @Test func importsAreRecognised() {
        let text = """
            import A
            @testable import B
              public import C
            internal import struct D.Thing
            @_spi(X) import E; import F
            // import G
            important()
            """
        #expect(imports(of: text) == ["A", "B", "C", "D", "E"])
    }

    @Test(arguments: [
        ("Routing", "Foundation", true), ("Wire", "FoundationEssentials", true), ("Configuration", "Foundation", false),
        ("Routing", "EventLoop", true), ("EventLoop", "Proxy", true), ("Proxy", "swiftlet", true), ("CLinux", "Wire", true),
        ("Proxy", "Routing", false), ("HTTPTransport", "EventLoop", false), ("Routing", "Synchronization", false),
    ]) func aWrongArrowIsSeen(target: String, module: String, isWrong: Bool) {
        #expect((complaint(target, imports: module) != nil) == isWrong)
    }
}

import ArgumentParser
import Configuration
import Foundation
import Proxy
import Routing

extension PlacementSettings {
    init(_ routing: RoutingParameters) {
        self.init()
        locality.node = routing.node ?? ""
        locality.zone = routing.zone ?? ""
        locality.otherNodeSeconds = Double(routing.otherNodeNanoseconds) * 1e-9
        locality.otherZoneSeconds = Double(routing.otherZoneNanoseconds) * 1e-9
        warmUpNanoseconds = routing.warmUpNanoseconds
        loadsAdaptersOnDemand = routing.loadsAdaptersOnDemand
        adapterLoadSeconds = Double(routing.adapterLoadNanoseconds) * 1e-9
        adapterSwapSeconds = Double(routing.adapterSwapNanoseconds) * 1e-9
    }
}

extension RequestReading {
    init(_ configuration: SwiftletConfiguration) {
        self.init()
        hashSeed = configuration.routing.hashSeed
        tenantHeader = Array((configuration.routing.tenantHeader ?? "").utf8)
        guard configuration.policy == .session || configuration.policy == .consistentHash else { return }
        sessionKeys = configuration.routing.sessionKeys.map { key in
            switch key.place {
            case .header: .header(Array(key.name.utf8))
            case .body: .body(Array(key.name.utf8))
            }
        }
    }
}

extension RoutingParameters {
    /// Empty when no request may name its group.
    func pinToken() throws -> [UInt8] { try secret(in: pinTokenFile, of: "routing.pin_token_file", called: "a token") }
}

/// What stands in `file`, without the line's end; empty without a file.
func secret(in file: String?, of key: String, called noun: String) throws -> [UInt8] {
    guard let file else { return [] }
    guard let data = FileManager.default.contents(atPath: file) else { throw ValidationError("\(key): cannot read \(file)") }
    let secret = String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    guard (16...256).contains(secret.utf8.count) else {
        throw ValidationError("\(key): expected \(noun) of 16 to 256 bytes in \(file)")
    }
    return Array(secret.utf8)
}

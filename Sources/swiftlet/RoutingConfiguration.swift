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
    private static let tokenBytes = 16...256

    /// What stands in `pinTokenFile`, without the line's end; empty when no request may name its group.
    func pinToken() throws -> [UInt8] {
        guard let pinTokenFile else { return [] }
        guard let data = FileManager.default.contents(atPath: pinTokenFile) else {
            throw ValidationError("routing.pin_token_file: cannot read \(pinTokenFile)")
        }
        let token = String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
        guard Self.tokenBytes.contains(token.utf8.count) else {
            throw ValidationError("routing.pin_token_file: expected a token of 16 to 256 bytes in \(pinTokenFile)")
        }
        return Array(token.utf8)
    }
}

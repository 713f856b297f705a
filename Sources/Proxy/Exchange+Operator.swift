import HTTPTransport
import Routing
import Telemetry
import Wire

/// What operators may ask of a request, as far as they have allowed themselves to: that it go to a group by name, and that the answer
/// say why it went where. The fields are the router's own and are not forwarded.
extension Exchange {
    private static let explain = Array("x-swiftlet-explain".utf8)

    /// - Returns: false when the request names a group and must not.
    func readsOperatorFields(_ headers: HeaderBlock) -> Bool {
        if worker.settings.explainsToClients, let wish = headers.value(named: Self.explain) {
            wantsExplanation = !wish.equals("0")
            headers.remove(named: Self.explain)
        }
        return worker.settings.pinning.token.isEmpty || readsPin(headers)
    }

    private func readsPin(_ headers: HeaderBlock) -> Bool {
        let pin = worker.settings.pinning.pin(headers)
        // No engine is to see the token, whatever it came with.
        headers.removeFields { Pinning.isPin(headers.name(at: $0)) }
        switch pin {
        case .none: return true
        case .group(let name): pinnedGroup = name
        case .refused: return false
        }
        return true
    }

    /// `group=…;reason=…;cached_tokens=…` and every term in microseconds, of the group that the answer comes from.
    func appendExplanation(to headers: HeaderBlock) {
        guard let decision else { return }
        let name = worker.metrics.groups.bytes(of: worker.label(of: decision.group))
        var text = Array("group=".utf8)
        // A name may hold what a header may not.
        text.append(contentsOf: name.map { $0 < 0x20 || $0 == 0x7F || $0 == UInt8(ascii: ";") ? UInt8(ascii: "?") : $0 })
        text.append(contentsOf: ";reason=\(decision.reason.label);cached_tokens=\(decision.predictedCachedTokens)".utf8)
        for (term, seconds) in decision.terms.named {
            // A wish of a millisecond, behind millions of tokens on a slow group, is missed by more than there are microseconds in an Int.
            text.append(contentsOf: ";\(term)_us=\(Int(exactly: (seconds * 1e6).rounded()) ?? .max)".utf8)
        }
        text.withUnsafeBytes { headers.append("x-swiftlet-explain", $0) }
    }
}

extension HeaderBlock {
    fileprivate func remove(named name: [UInt8]) { removeFields { self.name(at: $0).equalsIgnoringCase(name) } }
}

import EngineModel

/// Where a stop string or a stop token ends a reply. A reply follows from its seed, so the stub knows when it asks for it.
struct StopMatch: Equatable {
    enum Reason: Equatable {
        case text(String)
        case token(UInt32)

        /// As in `stop_reason`.
        var json: String {
            switch self {
            case .text(let text): JSONText.string(text)
            case .token(let id): "\(id)"
            }
        }
    }

    let reason: Reason
    /// Tokens generated until the match, the last one included.
    let tokens: Int
    /// Bytes of the reply's text that the client gets to see.
    let visibleBytes: Int

    /// What ends a reply, in the words of a request.
    struct Conditions {
        var texts: [String] = []
        var tokens: Set<UInt32> = []
        /// The stop string is part of the answer.
        var includesText = false
        /// Nothing stops a reply before it has this many tokens.
        var minimumTokens = 0

        var isEmpty: Bool { texts.isEmpty && tokens.isEmpty }
    }

    /// Looks for the first match in the reply of at most `limit` tokens that `seed` gives; nil when there is none.
    static func first(in reply: Reply, limit: Int, conditions: Conditions) -> StopMatch? {
        guard !conditions.isEmpty else { return nil }
        var reply = reply
        let stops = conditions.texts.filter { !$0.isEmpty }.map { Array($0.utf8) }
        let longest = stops.lazy.map(\.count).max() ?? 0
        var text: [UInt8] = []
        for index in 0..<limit {
            let token = reply.next()
            let before = text.count
            if index + 1 > conditions.minimumTokens, conditions.tokens.contains(token.id) {
                return StopMatch(reason: .token(token.id), tokens: index + 1, visibleBytes: before)
            }
            text.append(contentsOf: token.text)
            guard index + 1 > conditions.minimumTokens, longest > 0 else { continue }
            let window = text[max(0, before - longest + 1)...]
            for stop in stops {
                guard let range = window.firstRange(of: stop) else { continue }
                return StopMatch(
                    reason: .text(String(decoding: stop, as: UTF8.self)), tokens: index + 1,
                    visibleBytes: conditions.includesText ? range.upperBound : range.lowerBound)
            }
        }
        return nil
    }
}

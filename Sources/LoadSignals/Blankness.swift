/// The services of which some engine has told of load. Engines of a fleet mostly run one program with the same flags, so what one tells another
/// would tell, too. Confined to the control loop.
final class LoadTellers {
    fileprivate(set) var services: Set<LoadService> = []
}

/// Whether the zeros of a blank reading are an engine's that has no load, or of one that does not tell (`EngineReading.isBlank`).
///
/// Zeros that are not believed leave a group as busy as the others are on average, which an engine that has just come up is not.
struct Blankness {
    /// Readings, blank while requests of ours were under way there, after which an engine is known not to tell.
    static let blanksOfAMuteEngine = 3

    private var hasTold = false
    private var blanksAtWork = 0

    mutating func believes(_ reading: EngineReading, of service: LoadService, ownRequests: Int, _ tellers: LoadTellers) -> Bool {
        guard reading.isBlank else {
            hasTold = true
            tellers.services.insert(service)
            return true
        }
        if hasTold { return true }
        if ownRequests > 0 { blanksAtWork += 1 }
        return blanksAtWork < Self.blanksOfAMuteEngine && tellers.services.contains(service)
    }
}

import EventLoop

/// What the backends of one loop have been allowed to send on HTTP/2 streams beyond their first windows. A window is a promise to hold all of
/// it, should the client stop reading this very moment, so all wide ones together have a bound: half of
/// `TransportLimits.connectionBufferBytes`. A stream that finds no room keeps its first window, and is slower, not broken.
final class WindowPromises {
    private var bytes = 0

    /// Those of a loop, made at their first use.
    static func shared(by loop: EventLoop) -> WindowPromises {
        if let promises = loop.service(WindowPromises.self) { return promises }
        let promises = WindowPromises()
        loop.addService(promises)
        return promises
    }

    /// Whether so many more bytes may be promised; they are then, until `giveBack`.
    func make(_ count: Int, within bound: Int) -> Bool {
        guard bytes &+ count <= bound else { return false }
        bytes &+= count
        return true
    }

    func giveBack(_ count: Int) { bytes &-= count }
}

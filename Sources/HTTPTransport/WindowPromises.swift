import EventLoop

/// What the peers of one loop's HTTP/2 connections have been allowed to send beyond their first windows. A window is a promise to hold all of
/// it, should whoever takes the bytes stop this very moment, so all wide ones together have a bound: half of
/// `TransportLimits.connectionBufferBytes`, and never more than buffers leave of the whole. Who finds no room keeps the first window, and
/// is slower, not broken.
///
/// Two rules keep room for those who come last. Of a client that lets its answers lie the windows shrink, and what they were promised
/// is others' again (`HTTP2Session.holdBack`). And no client's connection gets more than it leaves: the dynamic threshold of shared-memory
/// switches (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998, with a factor of 1).
final class WindowPromises {
    /// Backends', for answers, and clients', for request bodies.
    private var answerBytes = 0
    private var uploadBytes = 0
    /// Of clients that were promised something: at most as many as there is room for.
    private var widened: [HTTP2Session] = []

    /// Those of a loop, made at their first use.
    static func shared(by loop: EventLoop) -> WindowPromises {
        if let promises = loop.service(WindowPromises.self) { return promises }
        let promises = WindowPromises()
        loop.addService(promises)
        return promises
    }

    private func hasRoom(for count: Int, beside lentBytes: Int, within bound: Int) -> Bool {
        let promised = answerBytes &+ uploadBytes
        return promised &+ count <= bound / 2 && lentBytes &+ promised &+ count <= bound
    }

    /// Whether a backend may be promised so many more bytes; it is then, until `giveBack`.
    /// - Parameters:
    ///   - share: of the client that the answer is for; nil: nobody's.
    ///   - lentBytes: what the loop's connections hold.
    ///   - bound: `TransportLimits.connectionBufferBytes`.
    func make(_ count: Int, for share: WindowShare?, beside lentBytes: Int, within bound: Int) -> Bool {
        guard hasRoom(for: count, beside: lentBytes, within: bound) else { return false }
        if let share {
            guard share.bytes &+ count <= bound / 2 &- answerBytes &- uploadBytes else { return false }
            share.bytes &+= count
        }
        answerBytes &+= count
        return true
    }

    func giveBack(_ count: Int) { answerBytes &-= count }

    /// The same for what a client may send; half of the room at most, for it is promised for as long as the connection stays. Where
    /// there is none left, a connection that lies idle ends for it, and the next one who asks has its room.
    func makeForUpload(_ count: Int, to session: HTTP2Session, beside lentBytes: Int, within bound: Int) -> Bool {
        guard uploadBytes &+ count <= bound / 4, hasRoom(for: count, beside: lentBytes, within: bound) else {
            widened.first { $0.streams.isEmpty }?.connection.endIfIdle()
            return false
        }
        uploadBytes &+= count
        widened.append(session)
        return true
    }

    func giveBackUpload(_ count: Int, of session: HTTP2Session) {
        uploadBytes &-= count
        widened.removeAll { $0 === session }
    }
}

/// What was promised to backends on behalf of one client's connection, and has not been given back or taken by the client.
final class WindowShare {
    var bytes = 0
}

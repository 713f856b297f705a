import EventLoop

/// A member of a tensor-parallel group: joins its leader, tries again while there is none, and ends with it.
public final class GroupMember {
    public enum Event: Sendable {
        case joined
        /// The leader knows no such rank, or has it already.
        case refused
        /// The leader was there and is gone.
        case leaderLost
    }

    private let address: SocketAddress
    private let line: String
    private let report: (Event) -> Void
    private let loop: EventLoop
    private var connection: LeaderConnection?
    private var pause: Pause?

    /// - Parameter report: is told, on the loop, of what happens.
    public init(loop: EventLoop, leader: SocketAddress, rank: Int, worldSize: Int, report: @escaping (Event) -> Void) {
        self.loop = loop
        address = leader
        line = "join \(rank) \(worldSize)"
        self.report = report
        connect()
    }

    fileprivate func connect() {
        pause = nil
        guard let descriptor = try? startConnecting(to: address),
            let connection = try? LeaderConnection(loop: loop, descriptor: descriptor, isConnected: false)
        else { return connectLater() }
        connection.member = self
        self.connection = connection
        connection.send(line)
    }

    private func connectLater() { pause = Pause(loop: loop, member: self) }

    fileprivate func heard(_ word: String) { report(word == "joined" ? .joined : .refused) }

    fileprivate func left(hadJoined: Bool) {
        connection = nil
        if hadJoined { report(.leaderLost) } else { connectLater() }
    }
}

private final class LeaderConnection: LineSocket {
    weak var member: GroupMember?
    private var hasJoined = false

    override func received(_ line: String) {
        hasJoined = line == "joined"
        member?.heard(line)
    }

    override func closed() { member?.left(hadJoined: hasJoined) }
}

/// Before the next attempt to reach the leader.
private final class Pause: EventHandler {
    private weak var member: GroupMember?

    init(loop: EventLoop, member: GroupMember) {
        self.member = member
        super.init(loop: loop)
        setDeadline(loop.now &+ 50_000_000)
    }

    override func deadlineReached() {
        detach()
        member?.connect()
    }
}

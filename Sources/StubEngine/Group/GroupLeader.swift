import CLinux
import EventLoop
import Glibc

/// The leader's side of a tensor-parallel group whose members are processes of their own: they connect, say `join RANK SIZE`, and stay
/// connected. The group is complete when every rank from 1 on has joined; a connection that ends is a member that is gone.
final class GroupLeader: EventHandler {
    private unowned let fleet: StubFleet
    private let worldSize: Int
    private var descriptor: CInt
    private var guests: [MemberConnection] = []
    private(set) var address: SocketAddress

    init(loop: EventLoop, address: SocketAddress, worldSize: Int, fleet: StubFleet) throws(SocketError) {
        self.fleet = fleet
        self.worldSize = worldSize
        self.address = address
        descriptor = swl_stream_socket(address.family)
        super.init(loop: loop)
        guard descriptor >= 0 else { throw SocketError(call: "socket", code: errno) }
        _ = swl_set_option(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
        guard address.withSockaddr({ bind(descriptor, $0, $1) }) == 0, listen(descriptor, 64) == 0 else {
            let code = errno
            Glibc.close(descriptor)
            throw SocketError(call: "bind \(address)", code: code)
        }
        self.address = address.with(port: SocketAddress.bound(descriptor).port)
        try attach(descriptor: descriptor)
    }

    var isComplete: Bool { guests.count { $0.rank != nil } == worldSize - 1 }

    override func socketReady(_ readiness: Readiness) {
        while descriptor >= 0 {
            var storage = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let accepted = withUnsafeMutablePointer(to: &storage) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { swl_accept(descriptor, $0, &length) }
            }
            guard accepted >= 0 else { return }
            // A guest that says nothing keeps a descriptor; there are few of them.
            guard guests.count < worldSize * 2, let guest = try? MemberConnection(loop: loop, descriptor: accepted, leader: self) else {
                continue
            }
            guests.append(guest)
        }
    }

    /// Returns whether the rank was awaited.
    fileprivate func join(_ guest: MemberConnection, rank: Int, worldSize: Int) -> Bool {
        guard worldSize == self.worldSize, (1..<worldSize).contains(rank), !guests.contains(where: { $0.rank == rank }) else {
            return false
        }
        guest.rank = rank
        fleet.memberJoined(rank: rank)
        return true
    }

    fileprivate func left(_ guest: MemberConnection) {
        guests.removeAll { $0 === guest }
        if let rank = guest.rank { fleet.memberLost(rank: rank) }
    }

    func close() {
        guard descriptor >= 0 else { return }
        detach()
        Glibc.close(descriptor)
        descriptor = -1
        for guest in guests { guest.close() }
        guests = []
    }
}

/// What the leader has of one member.
private final class MemberConnection: LineSocket {
    private unowned let leader: GroupLeader
    var rank: Int?

    init(loop: EventLoop, descriptor: CInt, leader: GroupLeader) throws(SocketError) {
        self.leader = leader
        try super.init(loop: loop, descriptor: descriptor, isConnected: true)
    }

    override func received(_ line: String) {
        let words = line.split(separator: " ")
        guard words.count == 3, words[0] == "join", let rank = Int(words[1]), let size = Int(words[2]), self.rank == nil,
            leader.join(self, rank: rank, worldSize: size)
        else {
            send("refused")
            close()
            return leader.left(self)
        }
        send("joined")
    }

    override func closed() { leader.left(self) }
}

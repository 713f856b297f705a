import CLinux
import Glibc

/// Whether loops' threads are to run ahead of all ordinary ones of the machine: what keeps time for others must wake on time itself.
///
/// Such a thread is in SCHED_RR at a low priority, behind the kernel's own. It must sleep whenever it has nothing to do, as a loop does. One that has
/// more to do than there is time is held to the share that sched_rt_runtime_us leaves (95 % of each second, by default), and the kernel keeps
/// a twentieth of every core for ordinary threads.
public enum RealTimeRequest: String, Sendable, CaseIterable {
    /// It must, or the loop does not start.
    case on
    case off
    /// Where the system permits it (CAP_SYS_NICE, RLIMIT_RTPRIO), and a core is left without such a thread.
    case auto

    public static let priority: CInt = 10

    /// What comes of it for each of so many loops on a machine with `cores`, both at least 1: `auto` becomes `off` where no core would be left.
    public func resolved(loops: Int, cores: Int) -> RealTimeRequest { self == .auto && loops > max(1, cores - 1) ? .off : self }
}

/// How the kernel schedules a thread.
public enum ThreadSchedule: Sendable, Equatable, CustomStringConvertible {
    case ordinary
    case realTime(priority: CInt)
    /// Real time was asked for and the kernel refused, with this `errno`; the thread is an ordinary one.
    case refused(code: CInt)

    public var isRealTime: Bool { if case .realTime = self { true } else { false } }

    public var description: String {
        switch self {
        case .ordinary: "ordinary"
        case .realTime(let priority): "real-time (SCHED_RR \(priority))"
        case .refused(let code): "ordinary (real-time was refused: \(String(cString: strerror(code))))"
        }
    }

    /// Of the calling thread.
    public static var current: ThreadSchedule {
        let priority = swl_real_time_priority()
        return priority > 0 ? .realTime(priority: priority) : .ordinary
    }

    /// Schedules the calling thread. Throws when `on` is refused.
    static func enter(_ request: RealTimeRequest) throws(SocketError) -> ThreadSchedule {
        guard request != .off else { return .ordinary }
        if swl_schedule_real_time(RealTimeRequest.priority) == 0 { return .realTime(priority: RealTimeRequest.priority) }
        let code = errno
        guard request == .auto else { throw SocketError(call: "sched_setscheduler (real time)", code: code) }
        return .refused(code: code)
    }

    /// Makes the calling thread an ordinary one again.
    func leave() { if isRealTime { _ = swl_schedule_ordinarily() } }
}

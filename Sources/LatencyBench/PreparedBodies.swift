import DequeModule
import Workload

/// Bodies of the requests that the schedule has next, written before they are due. A megabyte of text takes milliseconds to write: done when
/// its request is due it would make that late, and done while an answer is under way it would make that look late.
struct PreparedBodies {
    /// What bodies may take up, of all that wait.
    static let maximumBytes = 64 << 20

    private let limit: Int
    private var waiting: Deque<(index: Int, bytes: [UInt8])> = []
    private var waitingBytes = 0
    private var spare: [[UInt8]] = []
    /// The body that was taken last.
    private(set) var current: [UInt8] = []

    init(maximumBytes: Int = Self.maximumBytes) { limit = maximumBytes }

    var count: Int { waiting.count }
    var isFull: Bool { waitingBytes >= limit }

    /// Writes the body of the request that comes after those that wait.
    mutating func prepare(_ index: Int, of plan: LoadPlan, by writer: RequestWriter) {
        var bytes = spare.popLast() ?? []
        writer.write(index, of: plan, to: &bytes)
        waitingBytes += bytes.count
        waiting.append((index, bytes))
    }

    /// Makes the body of `index` the current one; writes it now if it has not been.
    mutating func take(_ index: Int, of plan: LoadPlan, by writer: RequestWriter) {
        if let first = waiting.first, first.index == index {
            waiting.removeFirst()
            waitingBytes -= first.bytes.count
            if spare.count < 4 { spare.append(current) }
            current = first.bytes
        } else {
            writer.write(index, of: plan, to: &current)
        }
    }
}

/// Names a LoRA adapter; chosen by the caller. ``BlockHash/adapter(named:)`` makes one of a name.
public typealias AdapterID = UInt64

/// How an engine serves LoRA adapters.
public struct LoRASettings: Sendable, Equatable {
    /// Adapters that can be on the devices, and so in one batch (`--max-loras`).
    public var slots: Int
    /// Adapters kept in the host's memory (`--max-cpu-loras`), at least `slots`.
    public var hostSlots: Int
    /// From the host's memory to the devices, ns. Steps wait for it: vLLM loads in the middle of its step.
    public var activationNanoseconds: UInt64
    /// From storage into the host's memory, ns.
    public var loadNanoseconds: UInt64

    /// - Parameter hostSlots: nil for as many as `slots`.
    public init(
        slots: Int = 1, hostSlots: Int? = nil, activationNanoseconds: UInt64 = 5_000_000, loadNanoseconds: UInt64 = 50_000_000
    ) {
        self.slots = min(max(1, slots), 1_024)
        self.hostSlots = min(max(self.slots, hostSlots ?? self.slots), 65_536)
        self.activationNanoseconds = activationNanoseconds
        self.loadNanoseconds = loadNanoseconds
    }

    /// Both durations times `factor`.
    public func scaled(by factor: Double) -> LoRASettings {
        func scaled(_ nanoseconds: UInt64) -> UInt64 { UInt64(max(0, min(Double(nanoseconds) * factor, 1e18))) }
        var copy = self
        copy.activationNanoseconds = scaled(activationNanoseconds)
        copy.loadNanoseconds = scaled(loadNanoseconds)
        return copy
    }
}

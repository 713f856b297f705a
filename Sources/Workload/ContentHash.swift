import Foundation

/// FNV-1a of 64 bits, over whole words and text: for naming content, not for tables.
public struct ContentHash: Sendable {
    public private(set) var value: UInt64 = 0xcbf2_9ce4_8422_2325
    public init() {}

    public mutating func add(_ byte: UInt8) { value = (value ^ UInt64(byte)) &* 0x100_0000_01b3 }
    public mutating func add(_ word: UInt64) { for shift in 0..<8 { add(UInt8(truncatingIfNeeded: word >> UInt64(8 * shift))) } }
    public mutating func add(_ text: String) { for byte in text.utf8 { add(byte) } }

    public static func text(_ value: UInt64) -> String { String(format: "%016llx", value) }
}

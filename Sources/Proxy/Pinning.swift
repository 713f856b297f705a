public import Wire

/// Who may name the group that a request goes to. The same for all loops, and for `/explain`.
public struct Pinning: Sendable {
    /// What `x-swiftlet-pin-token` must be for `x-swiftlet-group` to count; empty: it never does.
    public var token: [UInt8] = []

    public init() {}

    /// What a request says of the group that it wants.
    public enum Pin: Equatable {
        case none
        /// The name, in UTF-8.
        case group([UInt8])
        /// It names a group and must not, or more than one.
        case refused
    }

    private static let groupField = Array("x-swiftlet-group".utf8)
    private static let tokenField = Array("x-swiftlet-pin-token".utf8)

    public func pin(_ headers: HeaderBlock) -> Pin {
        guard !token.isEmpty, headers.value(named: Self.groupField) != nil else { return .none }
        guard let name = headers.value(named: Self.groupField, once: true), !name.isEmpty,
            let given = headers.value(named: Self.tokenField, once: true), Self.isEqual(given, token)
        else { return .refused }
        return .group(Array(name))
    }

    /// Whether a field of this name is part of a pin.
    static func isPin(_ name: UnsafeRawBufferPointer) -> Bool {
        name.equalsIgnoringCase(groupField) || name.equalsIgnoringCase(tokenField)
    }

    /// Takes as long whatever the bytes are, so that a token cannot be guessed byte by byte.
    private static func isEqual(_ given: UnsafeRawBufferPointer, _ expected: [UInt8]) -> Bool {
        guard given.count == expected.count else { return false }
        var difference: UInt8 = 0
        for index in 0..<given.count { difference |= given[index] ^ expected[index] }
        return difference == 0
    }
}

extension RequestHead {
    /// Whether target and authority hold only what RFC 3986 (3.2.2, 3.3, 3.4) lets stand in them, but for what browsers leave
    /// unescaped in a target. What two servers read differently there has been used to reach a host or a path that only one of them sees:
    /// a user before the host, a fragment, a slash in a Host, bytes above 0x7e.
    public var hasStrictAddress: Bool {
        for byte in target where byte <= 0x20 || byte > 0x7e || byte == 0x23 { return false }
        for byte in authority where !byte.isHostByte { return false }
        return true
    }
}

extension UInt8 {
    /// `reg-name`, `IP-literal` and `port`, as two sets of 64 bits.
    fileprivate var isHostByte: Bool {
        let set: UInt64 = self < 64 ? 0x2fff_7ff2_0000_0000 : 0x47ff_fffe_afff_fffe
        return self < 128 && set >> UInt64(self & 63) & 1 == 1
    }
}

extension HeaderBlock {
    /// Puts Cookie fields that HTTP/2 carried in crumbs together again (RFC 9113, 8.2.3): one field, "; " between what were several.
    public func joinCookies() {
        var length = 0
        var crumbs = 0
        for index in 0..<count where known(at: index) == .cookie {
            length &+= value(at: index).count &+ 2
            crumbs &+= 1
        }
        guard crumbs > 1 else { return }
        withUnsafeTemporaryAllocation(byteCount: length, alignment: 1) { joined in
            var end = 0
            for index in 0..<count where known(at: index) == .cookie {
                if end > 0 {
                    joined[end] = 59
                    joined[end &+ 1] = 32
                    end &+= 2
                }
                let crumb = value(at: index)
                UnsafeMutableRawBufferPointer(rebasing: joined[end...]).copyMemory(from: crumb)
                end &+= crumb.count
            }
            remove(.cookie)
            append("cookie", UnsafeRawBufferPointer(rebasing: joined[..<end]))
        }
    }
}
